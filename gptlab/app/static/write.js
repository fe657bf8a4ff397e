// Write: a beginning, and what the model makes of it. Of a model that follows instructions: instruct.
import { $, enterSends, isOff, off, tell, trouble } from "./dom.js";
import { Card, writeInto } from "./cards.js";
import { seedNow, settings } from "./settings.js";
import { state } from "./state.js";

let running = null; // what stops the request under way
let cards = [];

export const lastText = () => cards[0]?.text ?? $("prompt").value;

export function begin() {
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); write($("prompt").value); });
  enterSends($("ask"));
  $("stop").addEventListener("click", () => running?.abort());
  addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
  $("again").addEventListener("click", () => {
    if (isOff($("again"))) return;
    $("seed").value = seedNow() + 1;
    write($("prompt").value);
  });
  $("colour").addEventListener("change", colour);
  state.addEventListener("change", fit);
}

// The words of a model that follows instructions, or goes on with a text.
function fit() {
  const instructs = state.kind === "instructions";
  $("prompt-label").textContent = instructs ? "An instruction" : "How the text begins";
  $("input-part").hidden = !instructs;
  if (instructs && $("prompt").value === "Once upon a time") $("prompt").value = "Swap the two words.";
  if (!instructs && $("prompt").value === "Swap the two words.") $("prompt").value = "Once upon a time";
}

function colour() {
  $("samples").classList.toggle("coloured", $("colour").checked);
}

// `plain`: the text as it is, without an instruction's template.
async function write(prompt, plain = false) {
  running?.abort();
  const mine = running = new AbortController();
  const instructs = state.kind === "instructions" && !plain;
  const asked = settings();
  const input = instructs ? $("input").value : "";
  const buttons = [["Continue", goOn], ["Edit", edit], ["Copy", copy]];
  const lay = () => { // not before the text begins: a request that is refused leaves the old one
    cards = Array.from({ length: asked.n ?? 1 }, (_, i) =>
      new Card(asked.n > 1 ? `Sample ${i + 1}` : instructs ? "Response" : "Sample", instructs ? "" : prompt, instructs ? [buttons[2]] : buttons));
    $("samples").classList.toggle("several", cards.length > 1);
    cards.forEach((card) => { card.tokens.scrolls = cards.length > 1; });
    $("samples").replaceChildren(...cards.map((card) => card.element));
    return cards;
  };
  busy(true);
  trouble();
  reveal();
  try {
    const how = { ...state.which, ...asked, prompt, template: plain ? "none" : "auto" };
    await writeInto(lay, input ? { ...how, input } : how, mine.signal, say(mine));
  } catch (error) {
    trouble(error.message);
  }
  if (running === mine) {
    running = null;
    busy(false);
  }
}

// The status line is that of the latest request.
const say = (mine) => (words, going) => { if (running === mine) tell($("status"), words, going); };

function busy(yes) {
  off($("stop"), !yes);
  off($("again"), yes);
}

// On a phone the text may begin below what is seen.
function reveal() {
  const seen = visualViewport?.height ?? innerHeight;
  if ($("status").getBoundingClientRect().top > seen - 80) $("status").scrollIntoView({ block: "start" });
}

function goOn(card) {
  $("prompt").value = card.text;
  write(card.text, true);
}

function edit(card) {
  const place = $("prompt");
  place.value = card.text;
  place.rows = Math.min(16, Math.max(3, Math.ceil(card.text.length / 70)));
  place.focus();
  place.setSelectionRange(card.text.length, card.text.length);
}

async function copy(card) {
  try {
    await navigator.clipboard.writeText(card.text); // there is none where the page came by plain http
    tell($("status"), "Copied.");
  } catch {
    getSelection().selectAllChildren(card.tokens.element);
    tell($("status"), "This browser does not let the page copy: the text is selected for you to.");
  }
}
