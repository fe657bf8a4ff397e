// Watch it learn: the same beginning and seed at each checkpoint, the loss above.
import { $, tell, trouble } from "./dom.js";
import { stopped } from "./api.js";
import { Card, writeInto } from "./cards.js";
import { draw, near } from "./chart.js";
import { classes, verdict } from "./classify.js";
import { settings } from "./settings.js";
import { state, words } from "./state.js";

const kept = new Map(); // what was written before: the same again costs nothing
let running = null, playing = null, chosen = null, asked = null;

export function begin() {
  $("learn-seed").value = $("seed").value;
  $("step").addEventListener("input", () => { pause(); choose(Number($("step").value)); });
  $("learn-form").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("play").addEventListener("click", () => (playing ? pause() : play()));
  addEventListener("keydown", (event) => { if (event.key === "Escape") { pause(); running?.abort(); } });
  addEventListener("resize", () => { if (!$("learn").hidden) paint(); });
  state.addEventListener("change", () => {
    chosen = asked = null;
    if (!$("learn").hidden) show();
  });
  state.addEventListener("news", () => { if (!$("learn").hidden) follow(); });
}

// Those with a step, one a step: `best` may be the same as `last`, or as a step's own.
function stops() {
  const byStep = new Map();
  for (const each of state.details.checkpoints) if (each.step !== null) byStep.set(each.step, each);
  return [...byStep.values()];
}

export function show() {
  const classifies = state.kind === "classification";
  const what = { classification: "message", instructions: "instruction" }[state.kind] ?? "beginning";
  $("learn-form").querySelector("label").textContent = `The same ${what}, each time`;
  $("learn-form").querySelector("button").textContent = classifies ? "Classify" : "Write";
  for (const part of ["learn-seed", "learn-seed-label"]) $(part).hidden = classifies;
  asked = asked ?? ($("learn-prompt").value = $(classifies ? "message" : "prompt").value);
  const all = stops();
  $("step").max = Math.max(0, all.length - 1);
  $("step").disabled = $("play").disabled = all.length < 2;
  chosen = chosen ?? all.length - 1;
  $("step").value = chosen;
  paint();
  write();
}

// A run that trains: its curve grows, and its newest checkpoint is shown if the last was.
function follow() {
  const wasLast = chosen === Number($("step").max);
  const all = stops();
  $("step").max = Math.max(0, all.length - 1);
  $("step").disabled = $("play").disabled = all.length < 2;
  if (wasLast) choose(all.length - 1);
  else paint();
}

let later;
function choose(at) {
  chosen = at;
  $("step").value = at;
  paint();
  clearTimeout(later);
  later = setTimeout(write, 120); // while the slider moves, only where it rests
}

function paint() {
  const all = stops(), at = all[chosen]?.step ?? null;
  const curves = Object.entries(state.details.curves).filter(([name]) => name !== "accuracy")
    .map(([name, points]) => ({ name, points }));
  draw($("chart"), curves, all.map((each) => each.step), at);
  const there = curves.filter((curve) => curve.points.length);
  const loss = there.find((curve) => curve.name === "valid") ?? there[0];
  const value = loss && at !== null ? `, loss ${near(loss.points, at)[1].toFixed(3)}` : "";
  $("step-words").textContent = all.length ? words(all[chosen]) + value : "no checkpoint tells its step";
  $("step").setAttribute("aria-valuetext", $("step-words").textContent);
  const names = { train: "grey, training", valid: "in colour, validation", best_possible: "dotted, the best possible" };
  $("chart-words").textContent = there.length
    ? `Loss in nats: ${there.map((curve) => names[curve.name]).join("; ")}. Dots are checkpoints.` : "";
}

async function write() {
  const checkpoint = stops()[chosen];
  if (!checkpoint) return;
  running?.abort();
  const mine = running = new AbortController();
  const which = { run: state.run, checkpoint: checkpoint.name };
  const prompt = $("learn-prompt").value;
  trouble();
  try {
    if (state.kind === "classification") {
      $("learned").replaceChildren(verdict(await classes(which, prompt)));
    } else {
      await text(which, checkpoint, prompt, mine);
    }
  } catch (error) {
    if (!stopped(error)) trouble(error.message);
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
  const all = stops();
  $("play").textContent = "Pause";
  if (chosen >= all.length - 1) choose(0);
  playing = setInterval(() => {
    if ($("learned").querySelector(".busy")) return; // it still writes
    if (chosen >= stops().length - 1) pause();
    else choose(chosen + 1);
  }, 1200);
}

function pause() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "Play";
}
