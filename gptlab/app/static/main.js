// The page's beginning: which view is shown, light or dark, and the choice of a run.
import { $, trouble } from "./dom.js";
import { makeSettings } from "./settings.js";
import { state } from "./state.js";
import { hideTip } from "./tokens.js";
import * as classify from "./classify.js";
import * as compare from "./compare.js";
import * as inside from "./inside.js";
import * as learn from "./learn.js";
import * as runs from "./runs.js";
import * as write from "./write.js";

const VIEWS = { write, classify, learn, inside, compare, runs };

let shown = null;

// A classifier's page is another: it neither writes nor compares.
function wanted() {
  const hash = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, hash) ? hash : hash && shown || "write"; // else no view's: stay
  const classifies = state.kind === "classification";
  if (!state.run) return "runs";
  if (classifies && ["write", "inside", "compare"].includes(name)) return "classify";
  return !classifies && name === "classify" ? "write" : name;
}

function turn() {
  const name = wanted();
  hideTip();
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown && shown !== name) VIEWS[shown].hide?.();
  shown = name;
  VIEWS[name].show?.();
}

function fit() {
  const classifies = state.kind === "classification";
  $("to-write").setAttribute("href", classifies ? "#classify" : "#write");
  $("to-write").textContent = { classification: "Classify", instructions: "Instruct" }[state.kind] ?? "Write";
  $("to-inside").hidden = $("to-compare").hidden = classifies;
  if ($(wanted()).hidden) turn();
}

function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}

async function choose(run, checkpoint) {
  try {
    trouble();
    await state.choose(run, checkpoint);
  } catch (error) {
    trouble(error.message);
    state.show();
  }
}

$("theme").addEventListener("click", theme);
$("run").addEventListener("change", () => choose($("run").value));
$("checkpoint").addEventListener("change", () => choose(state.run, $("checkpoint").value));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its hash is no view
  $("main").focus();
});
$("trouble").addEventListener("click", () => trouble());
addEventListener("keydown", (event) => { if (event.key === "Escape") trouble(); });
addEventListener("hashchange", turn);
state.addEventListener("change", fit);
try {
  await state.begin();
  makeSettings();
  for (const view of Object.values(VIEWS)) view.begin();
  state.dispatchEvent(new Event("change"));
  turn();
  document.documentElement.dataset.ready = "yes";
} catch (error) {
  trouble(error.message);
}
