// Samples as cards, filled as their tokens come.
import { stopped, stream } from "./api.js";
import { make } from "./dom.js";
import { TokenText } from "./tokens.js";

const ENDS = {
  end_of_text: "ended by itself", stop: "ended at a stop text", length: "all tokens used",
};

export class Card {
  // `buttons`: [name, what to do with the card], shown when the text has ended.
  constructor(title, given, buttons = []) {
    this.given = given;
    this.title = make("span", {}, title);
    this.buttons = make("span", { className: "buttons" }, ...buttons.map(([name, act]) =>
      make("button", { type: "button", className: "quiet", onclick: () => act(this) }, name)));
    this.tokens = new TokenText(given, `${title}: the text; arrow keys go from token to token`);
    this.element = make("article", { className: "sample busy", "aria-busy": "true" },
      make("div", { className: "top" }, this.title, this.buttons), this.tokens.element);
  }

  get text() {
    return this.given + this.tokens.text;
  }

  end(words) {
    if (words) this.title.textContent += ` · ${words}`;
    this.element.classList.remove("busy");
    this.element.classList.add("ended");
    this.element.removeAttribute("aria-busy");
  }
}

// Fills the cards, one a sample, or those that `given` makes at the beginning; tells `say` how it goes. Returns whether it came to its end.
export async function writeInto(given, request, signal, say) {
  let cards = typeof given === "function" ? [] : given;
  let count = 0, began;
  const begin = (event) => {
    began = performance.now();
    if (typeof given === "function") cards = given();
    cards.forEach((card) => { card.begin = event; });
    say(request.sampling?.beams > 1 ? "Searching …" : "Waiting for the first token …");
  };
  say("Waiting for its turn …");
  try {
    await stream("/api/write", request, signal, (events) => {
      for (const event of events) if (event.event === "begin") begin(event);
      const searched = events.findLast((event) => event.event === "searched");
      if (searched) say(`Searching: ${searched.tokens} tokens of at most ${cards[0].begin.max_new_tokens}`, true);
      const tokens = events.filter((event) => event.event === "token");
      count += tokens.length;
      cards.forEach((card, i) => card.tokens.add(tokens.filter((token) => token.sample === i)));
      const seconds = (performance.now() - began) / 1000;
      const rate = seconds > 0.1 ? `, ${Math.round(count / seconds)} a second` : "";
      if (count) say(`Writing: ${count} tokens${rate}`, true);
      for (const event of events) if (event.event === "end") end(cards, event, say);
    });
    return true;
  } catch (error) {
    cards.forEach((card) => card.end(stopped(error) ? "stopped" : "broken off"));
    say(stopped(error) ? `Stopped after ${count} tokens.` : "");
    if (!stopped(error)) throw error;
    return false;
  }
}

function end(cards, event, say) {
  cards.forEach((card, i) => card.end(`${ENDS[event.ended[i]]} · ${event.nats_per_token[i].toFixed(2)} nats a token`));
  const rate = Math.round(event.tokens_per_second).toLocaleString("en");
  const { prompt_tokens: read, window } = cards[0].begin;
  const lost = read > window ? ` The beginning has ${read} tokens; the model sees its last ${window}.` : "";
  say(`${event.tokens} tokens in ${event.seconds.toFixed(1)} s, ${rate} tokens/s.${lost}`);
}
