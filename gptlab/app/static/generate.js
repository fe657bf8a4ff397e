// The view that generates text from a prompt, or answers an instruction.
import { $, hideError, isDisabled, setDisabled, setStatus, showError, submitOnEnter } from "./dom.js";
import { markUnknown, offerExamples } from "./prompt_match.js";
import { SampleCard, generateIntoCards } from "./sample_card.js";
import { readSeed, readSettings } from "./settings.js";
import { state } from "./state.js";

let current = null; // AbortController of the request in progress
let cards = [];
let updateMarks = () => {};

export const latestText = () => cards[0]?.text ?? $("prompt").value;

export function init() {
  $("generate-form").addEventListener("submit", (event) => { event.preventDefault(); generate($("prompt").value); });
  submitOnEnter($("generate-form"));
  $("stop").addEventListener("click", () => current?.abort());
  addEventListener("keydown", (event) => { if (event.key === "Escape") current?.abort(); });
  $("next-seed").addEventListener("click", () => {
    if (isDisabled($("next-seed"))) return;
    $("seed").value = readSeed($("seed")) + 1;
    generate($("prompt").value);
  });
  $("color-surprise").addEventListener("change", () => {
    $("samples").classList.toggle("colored", $("color-surprise").checked);
  });
  state.addEventListener("model", adaptToTask);
  offerExamples($("examples"), $("prompt"), $("input"));
  updateMarks = markUnknown($("prompt"));
}

function adaptToTask() {
  const instructions = state.task === "instructions";
  $("prompt-label").textContent = instructions ? "Instruction" : "Prompt";
  $("input-field").hidden = !instructions;
}

// raw: use the prompt as it is, without the template of an instruction.
async function generate(prompt, raw = false) {
  current?.abort();
  const controller = current = new AbortController();
  const instruction = state.task === "instructions" && !raw;
  const input = instruction ? $("input").value : "";
  const request = { ...state.selection, ...readSettings(), prompt, template: raw ? "none" : "auto",
    ...(input ? { input } : {}) };
  setRunning(true);
  hideError();
  scrollToStatus();
  try {
    const makeCards = () => {
      updateMarks(); // the model may not have been loaded before
      return showCards(request.num_samples ?? 1, prompt, instruction);
    };
    await generateIntoCards(makeCards, request, controller.signal, (text, inProgress) => {
      if (current === controller) setStatus($("status"), text, inProgress);
    });
  } catch (error) {
    showError(error.message);
  }
  if (current === controller) {
    current = null;
    setRunning(false);
  }
}

// Called when the first event arrives, so that a refused request keeps the previous samples.
function showCards(numSamples, prompt, instruction) {
  const buttons = instruction ? [["Copy", copy]] : [["Continue", continueText], ["Edit", edit], ["Copy", copy]];
  const title = instruction ? "Response" : "Sample";
  cards = Array.from({ length: numSamples }, (_, i) => new SampleCard(
    numSamples > 1 ? `Sample ${i + 1}` : title, instruction ? "" : prompt, buttons));
  $("samples").classList.toggle("multiple", numSamples > 1);
  cards.forEach((card) => { card.tokens.followsEnd = numSamples > 1; });
  $("samples").replaceChildren(...cards.map((card) => card.element));
  return cards;
}

function setRunning(running) {
  setDisabled($("stop"), !running);
  setDisabled($("next-seed"), running);
}

// On a phone the samples may be below the visible part.
function scrollToStatus() {
  const height = visualViewport?.height ?? innerHeight;
  if ($("status").getBoundingClientRect().top > height - 80) $("status").scrollIntoView({ block: "start" });
}

function continueText(card) {
  $("prompt").value = card.text;
  generate(card.text, true);
}

function edit(card) {
  const prompt = $("prompt");
  prompt.value = card.text;
  prompt.rows = Math.min(16, Math.max(3, Math.ceil(card.text.length / 70)));
  prompt.focus();
  prompt.setSelectionRange(card.text.length, card.text.length);
}

async function copy(card) {
  try {
    await navigator.clipboard.writeText(card.text); // unavailable on a page over plain HTTP
    setStatus($("status"), "Copied.");
  } catch {
    getSelection().selectAllChildren(card.tokens.element);
    setStatus($("status"), "The browser does not allow copying here. The text is selected: press Ctrl+C.");
  }
}
