// Watch it learn: the same beginning and seed at each checkpoint, the loss above.
import { $, tell, trouble } from "./dom.js";
import { stopped } from "./api.js";
import { Card, writeInto } from "./cards.js";
import { draw, near } from "./chart.js";
import { classes, verdict } from "./classify.js";
import { settings } from "./settings.js";
import { state, words } from "./state.js";

const kept = new Map(); // what was written before: the same again costs nothing
// `chosen` is a checkpoint's name; `shown`, what was written last: its run, name and time.
let running = null, playing = null, chosen = null, asked = null, run = null, shown = null;
let follows = true; // the newest was chosen, so a newer one will be

export function begin() {
  $("learn-seed").value = $("seed").value;
  $("step").addEventListener("input", () => { pause(); choose(stops()[Number($("step").value)]); });
  $("learn-form").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("play").addEventListener("click", () => (playing ? pause() : play()));
  addEventListener("keydown", (event) => { if (event.key === "Escape") { pause(); running?.abort(); } });
  addEventListener("resize", () => { if (!$("learn").hidden) paint(); });
  state.addEventListener("change", () => {
    change();
    if (!$("learn").hidden) show();
  });
  state.addEventListener("news", () => { if (!$("learn").hidden) follow(); });
}

export function hide() {
  pause();
}

// Another run begins anew; of the same one, what the page chose is chosen here too.
function change() {
  pause();
  if (run === state.run) return point(state.checkpoint);
  run = state.run;
  chosen = asked = shown = null;
  stop();
  $("learned").replaceChildren();
}

function stop() {
  clearTimeout(later);
  running?.abort();
  running = null;
  tell($("learn-status"), "");
}

// Those with a step, one a step: `best` may be the same as `last`, or as a step's own.
function stops() {
  const byStep = new Map();
  for (const each of state.details.checkpoints) if (each.step !== null) byStep.set(each.step, each);
  return [...byStep.values()];
}

// Where the chosen one is among them, be it by another name of the same step.
function at() {
  const step = state.details.checkpoints.find((each) => each.name === chosen)?.step;
  const found = stops().findIndex((each) => each.step === step);
  return found < 0 ? stops().length - 1 : found;
}

export function show() {
  const classifies = state.kind === "classification";
  const what = { classification: "message", instructions: "instruction" }[state.kind] ?? "beginning";
  $("learn-form").querySelector("label").textContent = `The same ${what}, each time`;
  $("learn-form").querySelector("button").textContent = classifies ? "Classify" : "Write";
  for (const part of ["learn-seed", "learn-seed-label"]) $(part).hidden = classifies;
  asked = asked ?? ($("learn-prompt").value = $(classifies ? "message" : "prompt").value);
  point(chosen);
  paint();
  write();
}

// A run that trains: its curve grows. Written again is only what there was not before.
function follow() {
  const there = follows && !playing ? stops().at(-1) : stops()[at()];
  if (there && !isShown(there)) choose(there);
  else paint();
}

const isShown = ({ name, written }) =>
  shown?.run === state.run && shown.name === name && shown.written === written;

function point(name) {
  chosen = name ?? stops().at(-1)?.name;
  follows = at() === stops().length - 1;
}

let later;
function choose(checkpoint) {
  point(checkpoint?.name);
  paint();
  clearTimeout(later);
  later = setTimeout(write, 120); // while the slider moves, only where it rests
}

function paint() {
  const all = stops(), here = at(), step = all[here]?.step ?? null;
  $("step").max = Math.max(0, all.length - 1);
  $("step").value = Math.max(0, here);
  $("step").disabled = $("play").disabled = all.length < 2;
  const curves = Object.entries(state.details.curves).filter(([name]) => name !== "accuracy")
    .map(([name, points]) => ({ name, points }));
  draw($("chart"), curves, all.map((each) => each.step), step);
  const there = curves.filter((curve) => curve.points.length);
  const loss = there.find((curve) => curve.name === "valid") ?? there[0];
  const value = loss && step !== null ? `, loss ${near(loss.points, step)[1].toFixed(3)}` : "";
  $("step-words").textContent = all.length ? words(all[here]) + value : "no checkpoint tells its step";
  $("step").setAttribute("aria-valuetext", $("step-words").textContent);
  const names = { train: "grey, training", valid: "in colour, validation", best_possible: "dotted, the best possible" };
  const legend = there.length
    ? `Loss in nats: ${there.map((curve) => names[curve.name]).join("; ")}. Dots are checkpoints.` : "";
  const more = all.length === 1 ? " There is one; trainer.keep_step_checkpoints=true keeps more." : "";
  $("chart-words").textContent = legend + more;
}

async function write() {
  stop();
  const checkpoint = stops()[at()];
  if (!checkpoint) return;
  shown = { run: state.run, name: checkpoint.name, written: checkpoint.written };
  const mine = running = new AbortController();
  const which = { run: state.run, checkpoint: checkpoint.name };
  const prompt = $("learn-prompt").value;
  trouble();
  try {
    if (state.kind === "classification") {
      const found = await classes(which, prompt);
      if (running === mine) $("learned").replaceChildren(verdict(found));
    } else {
      await text(which, checkpoint, prompt, mine);
    }
  } catch (error) {
    if (!stopped(error) && running === mine) trouble(error.message);
  }
}

async function text(which, checkpoint, prompt, mine) {
  const seed = Math.max(0, Math.floor(Number($("learn-seed").value) || 0));
  const request = { ...settings(), ...which, prompt, seed, n: 1 };
  const key = JSON.stringify([request, checkpoint.written]);
  const say = (words, going) => { if (running === mine) tell($("learn-status"), words, going); };
  let card = kept.get(key);
  if (card) {
    $("learned").replaceChildren(card.element);
    say("");
    return;
  }
  card = new Card(words(checkpoint), state.kind === "instructions" ? "" : prompt);
  $("learned").replaceChildren(card.element);
  if (await writeInto([card], request, mine.signal, say)) kept.set(key, card);
  if (kept.size > 200) kept.delete(kept.keys().next().value);
}

function play() {
  $("play").textContent = "Pause";
  if (at() >= stops().length - 1) choose(stops()[0]);
  playing = setInterval(() => {
    if ($("learned").querySelector(".busy")) return; // it still writes
    if (at() >= stops().length - 1) pause();
    else choose(stops()[at() + 1]);
  }, 1200);
}

function pause() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "Play";
}
