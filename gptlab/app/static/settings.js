// The form of generation settings, built from the fields that the server describes.
import { $, createElement } from "./dom.js";
import { state } from "./state.js";

const LABELS = { num_samples: "Samples", max_new_tokens: "Tokens", no_repeat_ngram: "No repeated n-gram" };
const BASIC = ["num_samples", "max_new_tokens", "temperature", "top_p"]; // the others are folded away
const readers = {}; // by name: a function that returns the value, or null if it is not used

const label = (name) => LABELS[name] ?? (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

export function createSettingsForm() {
  const rows = Object.fromEntries(state.fields.map((field) => [field.name, createRow(field)]));
  $("settings-details").open = matchMedia("(min-width: 56rem)").matches;
  const advanced = Object.keys(rows).filter((name) => !BASIC.includes(name));
  $("settings").replaceChildren(...BASIC.map((name) => rows[name]), createSeedRow(),
    createElement("details", {}, createElement("summary", {}, "More settings"),
      ...advanced.map((name) => rows[name]), createStopRow(), createUnknownRow()));
}

function createRow({ name, minimum, maximum, step, value, optional, help }) {
  const id = `setting-${name}`, initial = value ?? maximum;
  // The slider covers the useful range; the server accepts more, except for the number of samples.
  const strict = name === "num_samples";
  const clamp = (number) => strict ? Math.min(maximum, Math.max(minimum, number)) : number;
  const number = createElement("input", { id, type: "number", min: minimum, step: "any", value: initial,
    "aria-describedby": `${id}-help` });
  const slider = createElement("input", { type: "range", min: minimum, max: maximum, step, value: initial,
    "aria-label": label(name) });
  const checkbox = optional ? createElement("input", { type: "checkbox", checked: value !== null }) : null;
  const title = optional ? createElement("label", { className: "check" }, checkbox, label(name))
    : createElement("label", { htmlFor: id }, label(name));
  if (optional) number.setAttribute("aria-label", label(name));
  if (strict) number.max = maximum;
  const element = createElement("div", { className: "setting" }, title, number, slider,
    createElement("p", { className: "hint", id: `${id}-help` }, `${help} (${minimum} to ${maximum})`));
  const showUse = () => element.classList.toggle("unused", checkbox !== null && !checkbox.checked);
  const markUsed = () => { if (checkbox) checkbox.checked = true; showUse(); };
  slider.addEventListener("input", () => { number.value = slider.value; markUsed(); });
  number.addEventListener("input", () => { slider.value = number.value; markUsed(); });
  number.addEventListener("change", () => { if (number.value !== "") number.value = clamp(Number(number.value)); });
  checkbox?.addEventListener("change", showUse);
  showUse();
  readers[name] = () => (checkbox && !checkbox.checked) || number.value === "" ? null : clamp(Number(number.value));
  return element;
}

function createSeedRow() {
  return createElement("div", { className: "setting" }, createElement("label", { htmlFor: "seed" }, "Seed"),
    createElement("input", { id: "seed", type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, value: 1337 }),
    createElement("p", { className: "hint" }, "The same seed gives the same text."));
}

function createStopRow() {
  return createElement("div", { className: "setting" },
    createElement("label", { htmlFor: "stop-strings", className: "whole-row" }, "Stop strings"),
    createElement("textarea", { id: "stop-strings", rows: 2, className: "whole-row", spellcheck: false }),
    createElement("p", { className: "hint" }, "One per line. A sample ends where one of them appears."));
}

function createUnknownRow() {
  return createElement("div", { className: "setting" }, createElement("label", { className: "check whole-row" },
    createElement("input", { id: "refuse-unknown", type: "checkbox" }), "Refuse words the model never saw"));
}

// The settings as /api/generate takes them, without unused ones.
export function readSettings() {
  const values = Object.fromEntries(Object.entries(readers)
    .map(([name, read]) => [name, read()]).filter(([, value]) => value !== null));
  const { num_samples, max_new_tokens, ...sampling } = values;
  return {
    num_samples, max_new_tokens, sampling, seed: readSeed($("seed")),
    stop: $("stop-strings").value.split("\n").filter(Boolean),
    unknown: $("refuse-unknown").checked ? "error" : "skip",
  };
}

export const readSeed = (input) => Math.max(0, Math.floor(Number(input.value) || 0));
