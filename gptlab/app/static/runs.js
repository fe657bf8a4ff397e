// The view that lists all runs, and shows results, configuration and samples of the selected one.
import { $, createElement, formatInteger, showError } from "./dom.js";
import { state } from "./state.js";

const COLUMNS = ["Run", "Task", "Layers", "Parameters", "Steps", "Best loss"];
const RESULT_COLUMNS = { before: "Before training", after: "After training", later: "gptlab.evaluate" };

export function init() {
  state.addEventListener("model", () => { if (!$("runs").hidden) draw(); });
  state.addEventListener("progress", () => { if (!$("runs").hidden) show(); });
}

export async function show() {
  try {
    await state.loadRuns();
  } catch (error) {
    showError(error.message);
  }
  draw();
}

function draw() {
  if (!state.runs.length) {
    $("runs-table").replaceChildren();
    $("run-details").replaceChildren(
      createElement("p", {}, "There are no runs yet. Train one with ", createElement("code", {}, "gptlab train"), "."));
    return;
  }
  const header = createElement("tr", {}, ...COLUMNS.map((name, i) =>
    createElement("th", { scope: "col", className: i > 1 ? "number" : "" }, name)),
    createElement("th", { scope: "col" }, createElement("span", { className: "visually-hidden" }, "State")));
  $("runs-table").replaceChildren(createElement("thead", {}, header), createElement("tbody", {}, ...state.runs.map(createRow)));
  drawDetails();
}

function createRow(run) {
  const cells = [run.task ?? "", formatInteger(run.model?.n_layer), formatInteger(run.parameters),
    formatInteger(run.steps), run.best_loss?.toFixed(3) ?? "–"];
  const runState = run.training ? "training" : run.finished || run.standalone ? "" : "unfinished";
  const button = createElement("button", { type: "button", className: "quiet", onclick: async () => {
    try {
      await state.select(run.name);
    } catch (error) {
      showError(error.message);
    }
  } }, run.name);
  const row = createElement("tr", {}, createElement("th", { scope: "row" }, button),
    ...cells.map((cell, i) => createElement("td", { className: i ? "number" : "" }, cell)), createElement("td", {}, runState));
  if (run.name === state.run) row.setAttribute("aria-current", "true");
  return row;
}

function drawDetails() {
  const { config, results, samples } = state.details;
  const isGroup = (value) => value !== null && typeof value === "object";
  const entries = Object.entries(config);
  const single = Object.fromEntries(entries.filter(([, value]) => !isGroup(value)));
  const groups = entries.filter(([, value]) => isGroup(value) && Object.keys(value).length);
  const format = ([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`;
  const configuration = [["run", single], ...groups].map(([name, values]) =>
    createElement("details", { className: "config" }, createElement("summary", {}, name),
      createElement("pre", {}, Object.entries(values).map(format).join("\n"))));
  const texts = samples.map(({ name, text }, i) => createElement("details", { className: "training-sample", open: i === 0 },
    createElement("summary", {}, name), createElement("pre", { dir: "auto" }, text)));
  if (!texts.length) texts.push(createElement("p", { className: "hint" }, "This run has no samples."));
  $("run-details").replaceChildren(
    createElement("div", { className: "wide", id: "run-results", tabIndex: 0, role: "region", "aria-label": "Results" },
      createElement("h3", {}, "Results"), createResults(results)),
    createElement("div", {}, createElement("h3", {}, "Configuration"), ...configuration),
    createElement("div", {}, createElement("h3", {}, "Samples during training"), ...texts));
}

function createResults(results) {
  const columns = Object.keys(RESULT_COLUMNS).filter((column) => Object.keys(results[column] ?? {}).length);
  if (!columns.length) return createElement("p", { className: "hint" }, "This run has no results.");
  const names = new Set(columns.flatMap((column) => Object.keys(results[column])));
  const format = (value) => value === undefined ? "–" : Number.isInteger(value) ? formatInteger(value)
    : Math.abs(value) < 100 ? value.toFixed(4) : value.toLocaleString("en", { maximumFractionDigits: 1 });
  const cell = (text) => createElement("td", { className: "number" }, text);
  const header = createElement("tr", {}, createElement("th", { scope: "col" }, "Result"),
    ...columns.map((column) => createElement("th", { scope: "col", className: "number" }, RESULT_COLUMNS[column])));
  const rows = [...names].map((name) => createElement("tr", {}, createElement("th", { scope: "row" }, name),
    ...columns.map((column) => cell(format(results[column][name])))));
  return createElement("table", {}, createElement("thead", {}, header), createElement("tbody", {}, ...rows));
}
