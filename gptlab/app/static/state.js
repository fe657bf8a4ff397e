// The selected run and checkpoint. Views listen for "model" (another one is selected) and "progress"
// (the run has new curves or checkpoints).
import { get, isNotFound } from "./api.js";
import { $, createElement, showError } from "./dom.js";

const NO_RUN = { checkpoints: [], curves: {}, samples: [], config: {} };

class State extends EventTarget {
  runs = [];
  details = NO_RUN; // of the selected run
  fields = []; // of the settings form

  get selection() {
    return { run: this.run, checkpoint: this.checkpoint };
  }

  get task() {
    return this.details.task ?? "text";
  }

  async init() {
    const { fields, ...defaults } = await get("/api/settings");
    this.fields = fields;
    this.defaults = defaults;
    await this.loadRuns();
    await this.selectAvailable();
    setTimeout(() => this.poll(), 3000);
  }

  // Return whether the list has changed.
  async loadRuns() {
    const runs = await get("/api/runs");
    const changed = JSON.stringify(runs) !== JSON.stringify(this.runs);
    this.runs = runs;
    this.runsLoadedAt = Date.now();
    setOptions($("run"), runs.map((run) => run.name), this.run);
    return changed;
  }

  // Select the run in the address, or the server's default, or the first that exists.
  async selectAvailable() {
    const candidates = [new URLSearchParams(location.search).get("run"), this.defaults.run,
      ...this.runs.map((run) => run.name)].filter(Boolean);
    for (const run of new Set(candidates)) {
      try {
        return await this.select(run, run === this.defaults.run ? this.defaults.checkpoint : undefined);
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    }
    this.run = this.checkpoint = undefined;
    this.details = NO_RUN;
    this.show();
    this.dispatchEvent(new Event("model"));
  }

  // Select a run and one of its checkpoints, by default the best.
  async select(run, checkpoint) {
    const request = this.latestRequest = {};
    const details = await getRun(run);
    if (request !== this.latestRequest) return; // another run was selected in the meantime
    this.run = run;
    this.details = details;
    this.checkpoint = resolveCheckpoint(details, checkpoint);
    this.show();
    this.dispatchEvent(new Event("model"));
  }

  show() {
    setOptions($("run"), this.runs.map((run) => run.name), this.run);
    setCheckpointOptions($("checkpoint"), this.details.checkpoints, this.checkpoint);
    $("training-badge").hidden = !this.details.training;
    document.title = this.run ? `${this.run} – gptlab` : "gptlab";
    this.updateAddress();
  }

  // Keep the run in the address, so that a reload keeps it; the default needs none.
  updateAddress() {
    const url = new URL(location);
    if (this.run && this.run !== this.defaults.run) url.searchParams.set("run", this.run);
    else url.searchParams.delete("run");
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  }

  // Refresh every 3 seconds during training, otherwise every 15.
  async poll() {
    try {
      if (!document.hidden) await this.refresh();
    } catch (error) {
      showError(error.message);
    }
    setTimeout(() => this.poll(), this.details.training ? 3000 : 15000);
  }

  async refresh() {
    const runsChanged = Date.now() - this.runsLoadedAt > 10000 && await this.loadRuns();
    if (!this.run) return this.runs.length ? this.selectAvailable() : undefined;
    const run = this.run;
    try {
      const details = await getRun(run);
      if (run === this.run) this.update(details, runsChanged);
    } catch (error) {
      if (!isNotFound(error) || run !== this.run) throw error;
      await this.loadRuns();
      await this.selectAvailable();
      showError(`The run ${run} no longer exists${this.run ? `; showing ${this.run}` : ""}.`);
    }
  }

  update(details, runsChanged) {
    const changed = JSON.stringify(details) !== JSON.stringify(this.details);
    const checkpoint = resolveCheckpoint(details, this.checkpoint);
    const event = checkpoint === this.checkpoint ? "progress" : "model";
    this.details = details;
    this.checkpoint = checkpoint;
    if (!changed && !runsChanged) return;
    this.show();
    this.dispatchEvent(new Event(event));
  }
}

export const state = new State();

export const getRun = (name) => get(`/api/run?name=${encodeURIComponent(name)}`);

// Return the checkpoint if the run has it, otherwise the best or the last.
export function resolveCheckpoint({ checkpoints }, checkpoint) {
  const names = checkpoints.map(({ name }) => name);
  return names.includes(checkpoint) ? checkpoint : names.includes("best") ? "best" : names.at(-1);
}

export function checkpointLabel({ name, step }) {
  const label = name.replace("_", " ");
  return step === null || name.startsWith("step") ? label : `${label}, step ${step.toLocaleString("en")}`;
}

export function setCheckpointOptions(select, checkpoints, selected) {
  const labels = Object.fromEntries(checkpoints.map((each) => [each.name, checkpointLabel(each)]));
  setOptions(select, Object.keys(labels), selected, (name) => labels[name]);
}

// Set a select's options. Unchanged options stay untouched: replacing them would close an open list.
export function setOptions(select, names, selected, label = (name) => name) {
  const options = names.map((name) => `${name}\n${label(name)}`).join("\n");
  if (select.dataset.options !== options) {
    select.dataset.options = options;
    select.replaceChildren(...names.map((name) => createElement("option", { value: name }, label(name))));
  }
  if (selected !== undefined) select.value = selected;
}
