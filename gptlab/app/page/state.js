// What the page is about: the chosen run and checkpoint. Views listen for `change` (another model)
// and `news` (the run has gone on).
import { get } from "./api.js";
import { $, make, trouble } from "./dom.js";

class State extends EventTarget {
  runs = [];
  details = { checkpoints: [], curves: {}, samples: [], config: {} };
  settings = [];

  get which() {
    return { run: this.run, checkpoint: this.checkpoint };
  }

  get kind() {
    return this.details.kind ?? "text";
  }

  async begin() {
    const first = await get("/api/settings");
    this.settings = first.settings;
    await this.list();
    await this.choose(first.run, first.checkpoint);
    setTimeout(() => this.look(), 3000);
  }

  async list() {
    this.runs = await get("/api/runs");
    fill($("run"), this.runs.map((run) => run.name), this.run);
  }

  // Another run, or another checkpoint of it; without a name, its best.
  async choose(run, checkpoint) {
    const details = await get(`/api/run?name=${encodeURIComponent(run)}`);
    const names = details.checkpoints.map((each) => each.name);
    this.run = run;
    this.details = details;
    this.checkpoint = names.includes(checkpoint) ? checkpoint
      : names.includes("best") ? "best" : names.at(-1);
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  show() {
    fill($("run"), this.runs.map((run) => run.name), this.run);
    fill($("checkpoint"), this.details.checkpoints.map((each) => each.name), this.checkpoint,
      (name) => words(this.details.checkpoints.find((each) => each.name === name)));
    $("live").hidden = !this.details.training;
    document.title = `${this.run} – gptlab`;
  }

  // Whether the run has gone on: often while it trains, now and then otherwise.
  async look() {
    try {
      if (!document.hidden) {
        const details = await get(`/api/run?name=${encodeURIComponent(this.run)}`);
        const same = JSON.stringify(details) === JSON.stringify(this.details);
        if (details.name === this.run && !same) {
          this.details = details;
          this.show();
          this.dispatchEvent(new Event("news"));
        }
      }
    } catch (error) {
      trouble(error.message);
    }
    setTimeout(() => this.look(), this.details.training ? 3000 : 15000);
  }
}

export const state = new State();

export function words(checkpoint) {
  if (!checkpoint) return "";
  const { name, step } = checkpoint;
  return step === null || name.startsWith("step") ? name.replace("_", " ")
    : `${name.replace("_", " ")}, step ${step.toLocaleString("en")}`;
}

// A select's options; nothing is touched where they are the same, or an open list would close.
export function fill(select, names, chosen, as = (name) => name) {
  const wanted = names.map((name) => `${name}\n${as(name)}`).join("\n");
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    select.replaceChildren(...names.map((name) => make("option", { value: name }, as(name))));
  }
  if (chosen !== undefined) select.value = chosen;
}
