// Cards that show samples while they are generated.
import { isAbort, stream } from "./api.js";
import { createElement, plural } from "./dom.js";
import { TokenText } from "./token_text.js";

const FINISH_REASONS = { end_of_text: "end of text", stop: "stop string", length: "token limit" };

export class SampleCard {
  // buttons: [label, function of the card], shown when the sample is finished.
  constructor(title, prompt, buttons = []) {
    this.prompt = prompt;
    this.title = createElement("span", {}, title);
    this.buttons = createElement("span", { className: "buttons" }, ...buttons.map(([label, action]) =>
      createElement("button", { type: "button", className: "quiet", onclick: () => action(this) }, label)));
    this.tokens = new TokenText(prompt, `${title}: generated text; arrow keys move from token to token`);
    this.element = createElement("article", { className: "sample generating", "aria-busy": "true" },
      createElement("div", { className: "top" }, this.title, this.buttons), this.tokens.element);
  }

  get text() {
    return this.prompt + this.tokens.text;
  }

  finish(note) {
    if (note) this.title.textContent += ` · ${note}`;
    this.element.classList.remove("generating");
    this.element.classList.add("finished");
    this.element.removeAttribute("aria-busy");
  }
}

// Fill one card per sample; `cards` may be a function that makes them when the first event arrives.
// Return whether all samples were finished.
export async function generateIntoCards(cards, request, signal, onStatus) {
  let makeCards = null;
  if (typeof cards === "function") [makeCards, cards] = [cards, []];
  let numTokens = 0, start, startTime;
  const begin = (event) => {
    startTime = performance.now();
    start = event;
    if (makeCards) cards = makeCards();
    onStatus(request.sampling?.beams > 1 ? "Searching …" : "Waiting for the first token …");
  };
  onStatus("Waiting in the queue …");
  try {
    await stream("/api/generate", request, signal, (events) => {
      for (const event of events) if (event.event === "start") begin(event);
      const progress = events.findLast((event) => event.event === "progress");
      if (progress) onStatus(`Searching: ${progress.tokens} of at most ${start.max_new_tokens} tokens`, true);
      const tokens = events.filter((event) => event.event === "token");
      numTokens += tokens.length;
      cards.forEach((card, i) => card.tokens.add(tokens.filter((token) => token.sample === i)));
      const seconds = (performance.now() - startTime) / 1000;
      const rate = seconds > 0.1 ? `, ${Math.round(numTokens / seconds)} tokens/s` : "";
      if (numTokens) onStatus(`Generating: ${plural(numTokens, "token")}${rate}`, true);
      const end = events.find((event) => event.event === "end");
      if (end) finishCards(cards, start, end, onStatus);
    });
    return true;
  } catch (error) {
    cards.forEach((card) => card.finish(isAbort(error) ? "stopped" : "interrupted"));
    onStatus(isAbort(error) ? `Stopped after ${plural(numTokens, "token")}.` : "");
    if (!isAbort(error)) throw error;
    return false;
  }
}

function finishCards(cards, { prompt_tokens: promptTokens, window }, end, onStatus) {
  cards.forEach((card, i) => {
    const perplexity = Math.exp(end.nats_per_token[i]).toPrecision(3);
    card.finish(`${FINISH_REASONS[end.finish_reasons[i]]} · perplexity ${Number(perplexity).toLocaleString("en")}`);
  });
  const rate = Math.round(end.tokens_per_second).toLocaleString("en");
  const cut = promptTokens > window
    ? ` The prompt has ${plural(promptTokens, "token")}; the model reads the last ${window}.` : "";
  onStatus(`${plural(end.tokens, "token")} in ${end.seconds.toFixed(1)} s, ${rate} tokens/s.${cut}`);
}
