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

// A classifier's page is another: it neither writes nor compares.
function wanted() {
  const name = location.hash.slice(1);
  const classifies = state.kind === "classification";
  if (!(name in VIEWS)) return classifies ? "classify" : "write";
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
