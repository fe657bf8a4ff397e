// Start the page: show the view in the address, switch the theme, select runs.
import { $, hideError, showError } from "./dom.js";
import { createSettingsForm } from "./settings.js";
import { state } from "./state.js";
import { hideTooltip } from "./token_text.js";
import * as classify from "./classify.js";
import * as compare from "./compare.js";
import * as generate from "./generate.js";
import * as inspect from "./inspect.js";
import * as learn from "./learn.js";
import * as runs from "./runs.js";

const VIEWS = { generate, classify, learn, inspect, compare, runs };
const NOT_FOR_CLASSIFIERS = ["generate", "inspect", "compare"];

let visibleView = null;

function resolveView() {
  const hash = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, hash) ? hash : hash && visibleView || "generate"; // #main is no view
  const classifies = state.task === "classification";
  if (!state.run) return "runs";
  if (classifies && NOT_FOR_CLASSIFIERS.includes(name)) return "classify";
  return !classifies && name === "classify" ? "generate" : name;
}

function showView() {
  const name = resolveView();
  hideTooltip();
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (visibleView && visibleView !== name) VIEWS[visibleView].hide?.();
  visibleView = name;
  VIEWS[name].show?.();
}

function adaptToTask() {
  const classifies = state.task === "classification";
  $("nav-generate").setAttribute("href", classifies ? "#classify" : "#generate");
  $("nav-generate").textContent = { classification: "Classify", instructions: "Instruct" }[state.task] ?? "Generate";
  $("nav-inspect").hidden = $("nav-compare").hidden = classifies;
  if ($(resolveView()).hidden) showView();
}

function switchTheme() {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === "dark"
    || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

async function select(run, checkpoint) {
  try {
    hideError();
    await state.select(run, checkpoint);
  } catch (error) {
    showError(error.message);
    state.show();
  }
}

$("theme").addEventListener("click", switchTheme);
$("run").addEventListener("change", () => select($("run").value));
$("checkpoint").addEventListener("change", () => select(state.run, $("checkpoint").value));
document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // its hash is no view
  $("main").focus();
});
$("error").addEventListener("click", hideError);
addEventListener("keydown", (event) => { if (event.key === "Escape") hideError(); });
addEventListener("hashchange", showView);
state.addEventListener("model", adaptToTask);
try {
  await state.init();
  createSettingsForm();
  for (const view of Object.values(VIEWS)) view.init();
  state.dispatchEvent(new Event("model"));
  showView();
  document.documentElement.dataset.ready = "true";
} catch (error) {
  showError(error.message);
}
