// Text of tokens: coloured by surprise; point at one, or go there with the arrow keys, for what it
// beat.
import { $, make, percent, visible } from "./dom.js";

const END = "<|endoftext|>";
const LEVELS = [0.5, 1, 2, 3.5, 5]; // nats; a token that was certain has none

export class TokenText {
  constructor(given = "", label = "Text") {
    this.tokens = [];
    this.at = -1;
    this.scrolls = false; // whether its end is kept in sight; to measure that costs a layout
    this.element = make("div", { className: "text", dir: "auto", tabIndex: 0, role: "group", "aria-label": label });
    if (given) this.element.append(make("span", { className: "given" }, given));
    this.element.addEventListener("pointerover", (event) => this.point(event.target));
    this.element.addEventListener("pointerleave", hideTip);
    this.element.addEventListener("click", (event) => this.point(event.target));
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("blur", () => { this.unmark(); hideTip(); });
  }

  add(tokens) {
    const spans = tokens.flatMap((token) => {
      const level = LEVELS.filter((nats) => -Math.log(token.probability) > nats).length;
      const [, space, word] = /^( ?)([^]*)$/.exec(token.text);
      const span = make("span", { className: `token s${level}${word === END ? " end" : ""}` }, word || space);
      span.dataset.at = this.tokens.push(token) - 1;
      return word ? [space, span] : [span]; // the space before a word may end a line: no colour
    });
    this.element.append(...spans);
    if (this.scrolls) this.element.scrollTop = this.element.scrollHeight;
  }

  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  span(at) {
    return this.element.querySelector(`[data-at="${at}"]`);
  }

  point(target) {
    const at = target.dataset?.at;
    if (at === undefined) return hideTip();
    this.show(Number(at), target);
  }

  show(at, span) {
    showTip(this.tokens[at], span);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -this.tokens.length, End: this.tokens.length };
    if (!(event.key in moves) || !this.tokens.length) return;
    event.preventDefault();
    this.unmark();
    this.at = Math.max(0, Math.min(this.tokens.length - 1, this.at + moves[event.key]));
    const span = this.span(this.at);
    span.classList.add("here");
    span.scrollIntoView({ block: "nearest" });
    this.show(this.at, span);
  }

  unmark() {
    this.element.querySelector(".here")?.classList.remove("here");
  }
}

// Rows of a word, a bar and a percentage; `mine` is set apart; a bar of `most` is whole.
export function bars(pairs, mine, most = 1) {
  const rows = make("div", { className: "rows" });
  for (const [word, p] of pairs) {
    const own = word === mine ? "mine" : "";
    const bar = make("i", { className: own });
    bar.style.width = `${Math.max(1, 100 * p / most)}%`;
    rows.append(make("span", { className: own }, visible(word)), bar,
      make("span", { className: "number" }, percent(p)));
  }
  return rows;
}

function showTip(token, span) {
  const tip = $("tip");
  const own = token.token ?? token.text;
  const rank = token.likeliest.findIndex(([word]) => word === own);
  const place = rank < 0 ? "not among the ten" : rank === 0 ? "the likeliest"
    : `the likeliest but ${rank}`;
  const sentence = make("p", { role: "status" },
    make("b", {}, own.trim() || visible(own)), ` had ${percent(token.probability)}, ${place}`);
  const others = rank < 0 ? [...token.likeliest, [own, token.probability]] : token.likeliest;
  tip.replaceChildren(sentence, bars(others, own, Math.max(...others.map(([, p]) => p))));
  tip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - width - 8));
  const below = box.bottom + 8 + height < innerHeight || box.top < height + 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? box.bottom + 8 : box.top - height - 8}px`;
}

export function hideTip() {
  $("tip").hidden = true;
}

addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
