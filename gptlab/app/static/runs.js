// Runs: all that there are; of one its configuration and the samples it wrote while it trained.
import { $, make, trouble, whole } from "./dom.js";
import { state } from "./state.js";

const KINDS = { text: "text", classification: "classes", instructions: "instructions" };

export function begin() {
  state.addEventListener("change", () => { if (!$("runs").hidden) paint(); });
  state.addEventListener("news", () => { if (!$("runs").hidden) show(); });
}

export async function show() {
  try {
    await state.list();
  } catch (error) {
    trouble(error.message);
  }
  paint();
}

function paint() {
  const names = ["Run", "For", "Layers", "Parameters", "Steps", "Best loss", ""];
  const head = make("tr", {}, ...names.map((name, i) =>
    make("th", { scope: "col", className: i > 1 && i < 6 ? "number" : "" }, name || make("span", { className: "unseen" }, "State"))));
  if (!state.runs.length) {
    $("list").replaceChildren();
    $("about").replaceChildren(make("p", {}, "No run yet; ", make("code", {}, "python train.py"), " makes one."));
    return;
  }
  $("list").replaceChildren(make("thead", {}, head), make("tbody", {}, ...state.runs.map(row)));
  about();
}

function row(run) {
  const cells = [KINDS[run.kind] ?? "", whole(run.model?.n_layer), whole(run.parameters), whole(run.steps),
    run.loss?.toFixed(3) ?? "–"];
  const is = run.training ? "trains" : run.finished || run.given ? "" : "unfinished";
  const choose = make("button", { type: "button", className: "quiet", onclick: async () => {
    try {
      await state.choose(run.name);
    } catch (error) {
      trouble(error.message);
    }
  } }, run.name);
  const element = make("tr", {}, make("th", { scope: "row" }, choose),
    ...cells.map((cell, i) => make("td", { className: i ? "number" : "" }, cell)), make("td", {}, is));
  if (run.name === state.run) element.setAttribute("aria-current", "true");
  return element;
}

function about() {
  const { config, samples } = state.details;
  const groups = Object.entries(config).filter(([, value]) => value && typeof value === "object" && Object.keys(value).length);
  const single = Object.fromEntries(Object.entries(config).filter(([, value]) => value === null || typeof value !== "object"));
  const parts = [["run", single], ...groups].map(([name, values]) => make("details", { className: "config" },
    make("summary", {}, name), make("pre", {}, Object.entries(values).map(([key, value]) =>
      `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n"))));
  const stories = samples.map(({ name, text }, i) => make("details", { className: "story", open: i === 0 },
    make("summary", {}, name), make("pre", { dir: "auto" }, text)));
  $("about").replaceChildren(
    make("div", {}, make("h3", {}, "Configuration"), ...parts),
    make("div", {}, make("h3", {}, "Samples written while it trained"),
      ...(stories.length ? stories : [make("p", { className: "hint" }, "There are none.")])));
}
