// Compare: two runs or checkpoints, one beginning.
import { get } from "./api.js";
import { $, enterSends, make, off, tell, trouble, whole } from "./dom.js";
import { Card, writeInto } from "./cards.js";
import { settings } from "./settings.js";
import { among, fill, state, words } from "./state.js";
import { draw } from "./chart.js";

let sides = [], running = null;

export function begin() {
  enterSends($("compare-form"));
  $("compare-form").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("compare-stop").addEventListener("click", () => running?.abort());
  addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
  for (const name of ["change", "news"]) state.addEventListener(name, () => { if (!$("compare").hidden) show(); });
}

class Side {
  constructor(name) {
    this.run = make("select", { "aria-label": `${name}: run`, onchange: () => attempt(() => this.choose(this.run.value)) });
    this.checkpoint = make("select", { "aria-label": `${name}: checkpoint` });
    this.facts = make("p", { className: "hint" });
    this.chart = make("div", { className: "chart" });
    this.place = make("div", { className: "samples" });
    this.element = make("div", { className: "side" }, make("div", { className: "which" },
      this.run, this.checkpoint), this.facts, this.chart, this.place);
  }

  async choose(run, checkpoint) {
    this.details = run === state.run ? state.details : await get(`/api/run?name=${encodeURIComponent(run)}`);
    const { checkpoints, parameters, loss, model, curves } = this.details;
    fill(this.run, state.runs.filter((each) => each.kind !== "classification").map((each) => each.name), run);
    fill(this.checkpoint, checkpoints.map((each) => each.name), among(this.details, checkpoint),
      (name) => words(checkpoints.find((each) => each.name === name)));
    const size = parameters ? `${whole(parameters)} parameters, ${model.n_layer} layers` : "";
    this.facts.textContent = [size, loss === null || loss === undefined ? "" : `best loss ${loss.toFixed(3)}`]
      .filter(Boolean).join("; ");
    draw(this.chart, Object.entries(curves).filter(([name]) => name !== "accuracy")
      .map(([name, points]) => ({ name, points })), [], null);
  }

  // The same choice among what there is now.
  async renew() {
    const there = state.runs.some((each) => each.name === this.run.value);
    await this.choose(there ? this.run.value : state.run, this.checkpoint.value);
  }

  get which() {
    return { run: this.run.value, checkpoint: this.checkpoint.value };
  }
}

export async function show() {
  $("compare-prompt").value ||= $("prompt").value;
  await attempt(sides.length ? renew : prepare);
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    trouble(error.message);
  }
}

async function renew() {
  for (const side of sides) await side.renew();
}

async function prepare() {
  const made = [new Side("Left"), new Side("Right")];
  $("sides").replaceChildren(...made.map((side) => side.element));
  const other = state.runs.find((run) => run.name !== state.run && run.kind === state.kind);
  await made[0].choose(state.run, state.checkpoint);
  // Without another run, the earliest checkpoint of the same.
  await made[1].choose(other?.name ?? state.run, other ? undefined : state.details.checkpoints[0]?.name);
  sides = made;
}

async function write() {
  if (!sides.length) return;
  running?.abort();
  const mine = running = new AbortController();
  const prompt = $("compare-prompt").value;
  off($("compare-stop"), false);
  trouble();
  const cards = sides.map((side) => {
    const card = new Card(side.which.checkpoint.replace("_", " "), side.details.kind === "instructions" ? "" : prompt);
    side.place.replaceChildren(card.element);
    return card;
  });
  try {
    for (const [i, side] of sides.entries()) { // one after the other: each has the machine to itself
      const say = (told, going) => {
        if (running === mine) tell($("compare-status"), `${i ? "Right" : "Left"}: ${told}`, going);
      };
      if (!await writeInto([cards[i]], { ...settings(), ...side.which, prompt, n: 1 }, mine.signal, say)) break;
    }
  } catch (error) {
    trouble(error.message);
  }
  cards.forEach((card) => card.end(""));
  if (running === mine) off($("compare-stop"), true);
}
