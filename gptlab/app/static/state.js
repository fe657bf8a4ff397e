// What the page is about: the chosen run and checkpoint. Views listen for `change` (another model)
// and `news` (the run has gone on).
import { get, missing } from "./api.js";
import { $, make, trouble } from "./dom.js";

const NOTHING = { checkpoints: [], curves: {}, samples: [], config: {} };

class State extends EventTarget {
  runs = [];
  details = NOTHING;
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
    this.first = first;
    await this.list();
    await this.chooseAny();
    setTimeout(() => this.look(), 3000);
  }

  // Returns whether there are others than before.
  async list() {
    const runs = await get("/api/runs");
    const same = JSON.stringify(runs) === JSON.stringify(this.runs);
    this.runs = runs;
    this.listed = Date.now();
    fill($("run"), this.runs.map((run) => run.name), this.run);
    return !same;
  }

  // The run of the address, or the server's first, or the first that is still there, if any.
  async chooseAny() {
    const wanted = [new URLSearchParams(location.search).get("run"), this.first.run,
      ...this.runs.map((run) => run.name)].filter(Boolean);
    for (const run of new Set(wanted)) {
      try {
        return await this.choose(run, run === this.first.run ? this.first.checkpoint : undefined);
      } catch (error) {
        if (!missing(error)) throw error;
      }
    }
    this.run = this.checkpoint = undefined;
    this.details = NOTHING;
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  // Another run, or another checkpoint of it; without a name, its best.
  async choose(run, checkpoint) {
    const mine = this.wanted = {};
    const details = await get(`/api/run?name=${encodeURIComponent(run)}`);
    if (mine !== this.wanted) return; // another was chosen meanwhile
    this.run = run;
    this.details = details;
    this.checkpoint = among(details, checkpoint);
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  show() {
    fill($("run"), this.runs.map((run) => run.name), this.run);
    fill($("checkpoint"), this.details.checkpoints.map((each) => each.name), this.checkpoint,
      (name) => words(this.details.checkpoints.find((each) => each.name === name)));
    $("live").hidden = !this.details.training;
    document.title = this.run ? `${this.run} – gptlab` : "gptlab";
    this.address();
  }

  // The address has the run, so that a reload keeps it; the server's first needs no words.
  address() {
    const url = new URL(location);
    if (this.run && this.run !== this.first.run) url.searchParams.set("run", this.run);
    else url.searchParams.delete("run");
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  }

  // Whether the run has gone on: often while it trains, now and then otherwise.
  async look() {
    try {
      if (!document.hidden) await this.renew();
    } catch (error) {
      trouble(error.message);
    }
    setTimeout(() => this.look(), this.details.training ? 3000 : 15000);
  }

  async renew() {
    const others = Date.now() - this.listed > 10000 && await this.list();
    if (!this.run) return this.runs.length ? this.chooseAny() : undefined;
    const run = this.run;
    try {
      const details = await get(`/api/run?name=${encodeURIComponent(run)}`);
      if (run === this.run) this.take(details, others);
    } catch (error) {
      if (!missing(error) || run !== this.run) throw error;
      await this.list();
      await this.chooseAny();
      trouble(`The run ${run} is no longer there${this.run ? `; this is ${this.run}` : ""}.`);
    }
  }

  take(details, others) {
    const same = JSON.stringify(details) === JSON.stringify(this.details);
    const checkpoint = among(details, this.checkpoint), gone = checkpoint !== this.checkpoint;
    this.details = details;
    this.checkpoint = checkpoint;
    if (same && !others) return;
    this.show();
    this.dispatchEvent(new Event(gone ? "change" : "news"));
  }
}

// The checkpoint if the run has it, or else its best or last.
export function among({ checkpoints }, wanted) {
  const names = checkpoints.map((each) => each.name);
  return names.includes(wanted) ? wanted : names.includes("best") ? "best" : names.at(-1);
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
