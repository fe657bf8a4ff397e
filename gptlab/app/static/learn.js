// The view that shows what each checkpoint generates from the same prompt and seed, below the loss curves.
import { isAbort } from "./api.js";
import { $, hideError, setStatus, showError } from "./dom.js";
import { classify, createClassBars } from "./classify.js";
import { drawLossChart, lossCurves, nearestPoint } from "./loss_chart.js";
import { SampleCard, generateIntoCards } from "./sample_card.js";
import { readSeed, readSettings } from "./settings.js";
import { checkpointLabel, state } from "./state.js";

const PLAY_MILLISECONDS = 1200, SLIDER_MILLISECONDS = 120, MAX_CACHED = 200;
const CURVE_NAMES = { train: "gray: training", valid: "colored: validation", best_possible: "dotted: best possible" };

const cache = new Map(); // finished cards by request
let current = null; // AbortController of the request in progress
let playTimer = null, sliderTimer = null;
let run = null, selected = null; // name of the selected checkpoint
let generated = null; // run, name and modification time of the checkpoint generated with last
let hasPrompt = false, followsNewest = true; // select new checkpoints when they appear

export function init() {
  $("learn-seed").value = $("seed").value;
  $("step-slider").addEventListener("input", () => { pause(); choose(checkpoints()[Number($("step-slider").value)]); });
  $("learn-form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  $("play").addEventListener("click", () => (playTimer ? pause() : play()));
  addEventListener("keydown", (event) => { if (event.key === "Escape") { pause(); current?.abort(); } });
  addEventListener("resize", () => { if (!$("learn").hidden) draw(); });
  state.addEventListener("model", () => {
    resetForModel();
    if (!$("learn").hidden) show();
  });
  state.addEventListener("progress", () => { if (!$("learn").hidden) handleProgress(); });
}

export function show() {
  const classifies = state.task === "classification";
  const subject = { classification: "message", instructions: "instruction" }[state.task] ?? "prompt";
  $("learn-prompt-label").textContent = `Same ${subject} for every checkpoint`;
  $("learn-button").textContent = classifies ? "Classify" : "Generate";
  for (const id of ["learn-seed", "learn-seed-label"]) $(id).hidden = classifies;
  if (!hasPrompt) $("learn-prompt").value = $(classifies ? "message" : "prompt").value;
  hasPrompt = true;
  select(selected);
  draw();
  generate();
}

export const hide = pause;

// Another run starts from its newest checkpoint; in the same run follow the page's selection.
function resetForModel() {
  pause();
  if (run === state.run) return select(state.checkpoint);
  run = state.run;
  selected = generated = null;
  hasPrompt = false;
  abort();
  $("learn-sample").replaceChildren();
}

function abort() {
  clearTimeout(sliderTimer);
  current?.abort();
  current = null;
  setStatus($("learn-status"), "");
}

// One checkpoint per step: `best` may have the step of `last` or of `step_N`.
function checkpoints() {
  const byStep = new Map();
  for (const each of state.details.checkpoints) if (each.step !== null) byStep.set(each.step, each);
  return [...byStep.values()];
}

// The index of the selected checkpoint, which may have another name in the list.
function selectedIndex() {
  const step = state.details.checkpoints.find(({ name }) => name === selected)?.step;
  const index = checkpoints().findIndex((each) => each.step === step);
  return index < 0 ? checkpoints().length - 1 : index;
}

// During training: extend the curves, and generate only with a new checkpoint.
function handleProgress() {
  const checkpoint = followsNewest && !playTimer ? checkpoints().at(-1) : checkpoints()[selectedIndex()];
  if (checkpoint && !isGenerated(checkpoint)) choose(checkpoint);
  else draw();
}

const isGenerated = ({ name, modified }) =>
  generated?.run === state.run && generated.name === name && generated.modified === modified;

function select(name) {
  selected = name ?? checkpoints().at(-1)?.name;
  followsNewest = selectedIndex() === checkpoints().length - 1;
}

function choose(checkpoint) {
  select(checkpoint?.name);
  draw();
  clearTimeout(sliderTimer);
  sliderTimer = setTimeout(generate, SLIDER_MILLISECONDS); // not while the slider moves
}

function draw() {
  const all = checkpoints(), index = selectedIndex(), step = all[index]?.step ?? null;
  $("step-slider").max = Math.max(0, all.length - 1);
  $("step-slider").value = Math.max(0, index);
  $("step-slider").disabled = $("play").disabled = all.length < 2;
  const curves = lossCurves(state.details);
  drawLossChart($("loss-chart"), curves, all.map((each) => each.step), step);
  const visible = curves.filter((curve) => curve.points.length);
  const curve = visible.find(({ name }) => name === "valid") ?? visible[0];
  const loss = curve && step !== null ? `, loss ${nearestPoint(curve.points, step)[1].toFixed(3)}` : "";
  $("step-label").textContent = all.length ? checkpointLabel(all[index]) + loss : "no checkpoint with a known step";
  $("step-slider").setAttribute("aria-valuetext", $("step-label").textContent);
  const legend = visible.length
    ? `Loss in nats per token (e^loss is the perplexity); ${visible.map(({ name }) => CURVE_NAMES[name]).join(", ")}; dots: checkpoints.` : "";
  const hint = all.length === 1 ? " This run has one checkpoint; train with trainer.keep_step_checkpoints=true to keep more." : "";
  $("chart-legend").textContent = legend + hint;
}

async function generate() {
  abort();
  const checkpoint = checkpoints()[selectedIndex()];
  if (!checkpoint) return;
  generated = { run: state.run, name: checkpoint.name, modified: checkpoint.modified };
  const controller = current = new AbortController();
  const selection = { run: state.run, checkpoint: checkpoint.name };
  const prompt = $("learn-prompt").value;
  hideError();
  try {
    if (state.task === "classification") {
      const result = await classify(selection, prompt);
      if (current === controller) $("learn-sample").replaceChildren(createClassBars(result));
    } else {
      await generateText(selection, checkpoint, prompt, controller);
    }
  } catch (error) {
    if (!isAbort(error) && current === controller) showError(error.message);
  }
}

async function generateText(selection, checkpoint, prompt, controller) {
  const request = { ...readSettings(), ...selection, prompt, seed: readSeed($("learn-seed")), num_samples: 1 };
  const key = JSON.stringify([request, checkpoint.modified]);
  const onStatus = (text, inProgress) => {
    if (current === controller) setStatus($("learn-status"), text, inProgress);
  };
  if (cache.has(key)) {
    $("learn-sample").replaceChildren(cache.get(key).element);
    return onStatus("");
  }
  const card = new SampleCard(checkpointLabel(checkpoint), state.task === "instructions" ? "" : prompt);
  $("learn-sample").replaceChildren(card.element);
  if (await generateIntoCards([card], request, controller.signal, onStatus)) cache.set(key, card);
  if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
}

function play() {
  $("play").textContent = "Pause";
  if (selectedIndex() >= checkpoints().length - 1) choose(checkpoints()[0]);
  playTimer = setInterval(() => {
    if ($("learn-sample").querySelector(".generating")) return;
    if (selectedIndex() >= checkpoints().length - 1) pause();
    else choose(checkpoints()[selectedIndex() + 1]);
  }, PLAY_MILLISECONDS);
}

function pause() {
  clearInterval(playTimer);
  playTimer = null;
  $("play").textContent = "Play";
}
