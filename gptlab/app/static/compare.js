// The view that generates with two runs or checkpoints from the same prompt and seed.
import { $, createElement, formatInteger, hideError, setDisabled, setStatus, showError, submitOnEnter } from "./dom.js";
import { drawLossChart, lossCurves } from "./loss_chart.js";
import { SampleCard, generateIntoCards } from "./sample_card.js";
import { readSettings } from "./settings.js";
import { checkpointLabel, getRun, resolveCheckpoint, setCheckpointOptions, setOptions, state } from "./state.js";

let sides = [], current = null; // AbortController of the request in progress

export function init() {
  submitOnEnter($("compare-form"));
  $("compare-form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  $("compare-stop").addEventListener("click", () => current?.abort());
  addEventListener("keydown", (event) => { if (event.key === "Escape") current?.abort(); });
  for (const name of ["model", "progress"]) state.addEventListener(name, () => { if (!$("compare").hidden) show(); });
}

class Side {
  constructor(name) {
    this.name = name;
    this.run = createElement("select", { "aria-label": `${name}: run`,
      onchange: () => withErrors(() => this.select(this.run.value)) });
    this.checkpoint = createElement("select", { "aria-label": `${name}: checkpoint` });
    this.facts = createElement("p", { className: "hint" });
    this.chart = createElement("div", { className: "chart" });
    this.sample = createElement("div", { className: "samples" });
    this.element = createElement("div", { className: "side" },
      createElement("div", { className: "model-picker" }, this.run, this.checkpoint), this.facts, this.chart, this.sample);
  }

  async select(run, checkpoint) {
    this.details = run === state.run ? state.details : await getRun(run);
    const { checkpoints, parameters, best_loss: loss, model } = this.details;
    const generators = state.runs.filter(({ task }) => task !== "classification");
    setOptions(this.run, generators.map(({ name }) => name), run);
    setCheckpointOptions(this.checkpoint, checkpoints, resolveCheckpoint(this.details, checkpoint));
    const size = parameters ? `${formatInteger(parameters)} parameters, ${model.n_layer} layers` : "";
    const best = loss === null || loss === undefined ? "" : `best validation loss ${loss.toFixed(3)}`;
    this.facts.textContent = [size, best].filter(Boolean).join("; ");
    drawLossChart(this.chart, lossCurves(this.details), [], null);
  }

  // Keep the selection as far as it still exists.
  async refresh() {
    const exists = state.runs.some(({ name }) => name === this.run.value);
    await this.select(exists ? this.run.value : state.run, this.checkpoint.value);
  }

  createCard(prompt) {
    const checkpoint = this.details.checkpoints.find(({ name }) => name === this.checkpoint.value);
    const card = new SampleCard(checkpointLabel(checkpoint), this.details.task === "instructions" ? "" : prompt);
    this.sample.replaceChildren(card.element);
    return card;
  }
}

export async function show() {
  $("compare-prompt").value ||= $("prompt").value;
  await withErrors(sides.length ? refreshSides : createSides);
}

async function withErrors(action) {
  try {
    await action();
  } catch (error) {
    showError(error.message);
  }
}

async function refreshSides() {
  for (const side of sides) await side.refresh();
}

async function createSides() {
  const [left, right] = [new Side("Left"), new Side("Right")];
  $("compare-sides").replaceChildren(left.element, right.element);
  const other = state.runs.find(({ name, task }) => name !== state.run && task === state.task);
  await left.select(state.run, state.checkpoint);
  // Without another run, compare with the earliest checkpoint.
  await right.select(other?.name ?? state.run, other ? undefined : state.details.checkpoints[0]?.name);
  sides = [left, right];
}

async function generate() {
  if (!sides.length) return;
  current?.abort();
  const controller = current = new AbortController();
  const prompt = $("compare-prompt").value;
  setDisabled($("compare-stop"), false);
  hideError();
  const cards = sides.map((side) => side.createCard(prompt));
  await withErrors(async () => {
    for (const [i, side] of sides.entries()) { // one after the other: each uses the whole machine
      const request = { ...readSettings(), run: side.run.value, checkpoint: side.checkpoint.value, prompt, num_samples: 1 };
      const finished = await generateIntoCards([cards[i]], request, controller.signal, (text, inProgress) => {
        if (current === controller) setStatus($("compare-status"), `${side.name}: ${text}`, inProgress);
      });
      if (!finished) break;
    }
  });
  cards.forEach((card) => card.finish(""));
  if (current === controller) setDisabled($("compare-stop"), true);
}
