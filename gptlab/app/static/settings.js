// The form of every sampling setting, made of what the server tells of them.
import { $, make } from "./dom.js";
import { state } from "./state.js";

const NAMES = {
  n: "Samples", max_new_tokens: "Tokens", temperature: "Temperature", top_k: "Top k", top_p: "Top p",
  min_p: "Min p", repetition_penalty: "Repetition penalty", no_repeat_ngram: "No repeats of N tokens",
  beams: "Beams", length_penalty: "Length penalty",
};
const FIRST = ["n", "max_new_tokens", "temperature", "top_p"];
const inputs = {};

export function makeSettings() {
  const rows = Object.fromEntries(state.settings.map((each) => [each.name, row(each)]));
  $("settings-fold").open = matchMedia("(min-width: 56rem)").matches;
  const first = FIRST.map((name) => rows[name]);
  const rest = Object.keys(rows).filter((name) => !FIRST.includes(name)).map((name) => rows[name]);
  $("settings").replaceChildren(...first, seed(),
    make("details", {}, make("summary", {}, "More settings"), ...rest, stops(), unknown()));
}

function row({ name, low, high, step, value, optional, help }) {
  const id = `set-${name}`;
  // Of the others the slider has only the useful part; the server knows the whole.
  const clamp = (value) => name === "n" ? Math.min(high, Math.max(low, value)) : value;
  const number = make("input", { id, type: "number", min: low, step: "any", value: value ?? high,
    "aria-describedby": `${id}-help` });
  const range = make("input", { type: "range", min: low, max: high, step, value: value ?? high,
    "aria-label": NAMES[name] });
  const use = optional ? make("input", { type: "checkbox", checked: value !== null }) : null;
  const title = optional ? make("label", { className: "check" }, use, NAMES[name])
    : make("label", { htmlFor: id }, NAMES[name]);
  if (optional) number.setAttribute("aria-label", NAMES[name]);
  const element = make("div", { className: "setting" }, title, number, range,
    make("p", { className: "hint", id: `${id}-help` }, `${help} (${low} to ${high})`));
  const shade = () => element.classList.toggle("off", use !== null && !use.checked);
  const touched = () => { if (use) use.checked = true; shade(); };
  range.addEventListener("input", () => { number.value = range.value; touched(); });
  number.addEventListener("input", () => { range.value = number.value; touched(); });
  if (name === "n") number.max = high;
  number.addEventListener("change", () => { if (number.value !== "") number.value = clamp(Number(number.value)); });
  use?.addEventListener("change", shade);
  shade();
  inputs[name] = () => (use && !use.checked) || number.value === "" ? null
    : clamp(Number(number.value));
  return element;
}

function seed() {
  return make("div", { className: "setting" }, make("label", { htmlFor: "seed" }, "Seed"),
    make("input", { id: "seed", type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, value: 1337 }),
    make("p", { className: "hint" }, "The same seed, the same text."));
}

function stops() {
  return make("div", { className: "setting" },
    make("label", { htmlFor: "stops", className: "whole" }, "Stop texts"),
    make("textarea", { id: "stops", rows: 2, className: "whole", spellcheck: false }),
    make("p", { className: "hint" }, "One a line: a sample ends where it has one."));
}

function unknown() {
  return make("div", { className: "setting" }, make("label", { className: "check whole" },
    make("input", { id: "unknown", type: "checkbox" }), "Skip what the model never saw"));
}

// The settings as /api/write takes them; what is not in use is left out.
export function settings() {
  const sampling = {};
  for (const [name, value] of Object.entries(inputs)) if (value() !== null) sampling[name] = value();
  const { n, max_new_tokens, ...rest } = sampling;
  return {
    n, max_new_tokens, sampling: rest, seed: seedNow(),
    stop: $("stops").value.split("\n").filter(Boolean),
    unknown: $("unknown").checked ? "skip" : "error",
  };
}

export const seedNow = () => Math.max(0, Math.floor(Number($("seed").value) || 0));
