// Text shown token by token, colored by surprise. Pointing at a token, or moving to it with the arrow
// keys, shows its probability and the alternatives.
import { $, createElement, formatPercent, showWhitespace } from "./dom.js";

const END_OF_TEXT = "<|endoftext|>";
const SURPRISE_LEVELS = [0.5, 1, 2, 3.5, 5]; // -log(probability) above which the color gets stronger

export class TokenText {
  constructor(prompt = "", label = "Text") {
    this.tokens = [];
    this.current = -1;
    this.followsEnd = false; // whether to scroll to the end; measuring it costs a layout
    this.element = createElement("div", { className: "text", dir: "auto", tabIndex: 0, role: "group", "aria-label": label });
    if (prompt) this.element.append(createElement("span", { className: "prompt" }, prompt));
    this.element.addEventListener("pointerover", (event) => this.showTooltipFor(event.target));
    this.element.addEventListener("pointerleave", hideTooltip);
    this.element.addEventListener("click", (event) => this.showTooltipFor(event.target));
    this.element.addEventListener("keydown", (event) => this.handleKey(event));
    this.element.addEventListener("blur", () => { this.clearCurrent(); hideTooltip(); });
  }

  add(tokens) {
    const spans = tokens.flatMap((token) => {
      const level = SURPRISE_LEVELS.filter((nats) => -Math.log(token.probability) > nats).length;
      const [, space, word] = /^( ?)([^]*)$/.exec(token.text);
      const end = word === END_OF_TEXT ? " end" : "";
      const span = createElement("span", { className: `token surprise-${level}${end}` }, word || space);
      span.dataset.index = this.tokens.push(token) - 1;
      return word ? [space, span] : [span]; // a line may break at the space, so it gets no color
    });
    this.element.append(...spans);
    if (this.followsEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  showTooltipFor(target) {
    const index = target.dataset?.index;
    if (index === undefined) return hideTooltip();
    this.show(Number(index), target);
  }

  show(index, span) {
    showTooltip(this.tokens[index], span);
  }

  handleKey(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -this.tokens.length, End: this.tokens.length };
    if (!(event.key in moves) || !this.tokens.length) return;
    event.preventDefault();
    this.clearCurrent();
    this.current = Math.max(0, Math.min(this.tokens.length - 1, this.current + moves[event.key]));
    const span = this.element.querySelector(`[data-index="${this.current}"]`);
    span.classList.add("current");
    span.scrollIntoView({ block: "nearest" });
    this.show(this.current, span);
  }

  clearCurrent() {
    this.element.querySelector(".current")?.classList.remove("current");
  }
}

// Rows of a word, a bar and a percentage. `highlighted` is the word to emphasize; `maximum` fills a bar.
export function createBars(pairs, highlighted, maximum = 1) {
  const rows = createElement("div", { className: "rows" });
  for (const [word, p] of pairs) {
    const className = word === highlighted ? "highlighted" : "";
    const bar = createElement("i", { className });
    bar.style.width = `${Math.max(1, 100 * p / maximum)}%`;
    rows.append(createElement("span", { className }, showWhitespace(word)), bar,
      createElement("span", { className: "number" }, formatPercent(p)));
  }
  return rows;
}

function showTooltip({ text, token = text, probability, alternatives }, span) {
  const tooltip = $("tooltip");
  const rank = alternatives.findIndex(([word]) => word === token) + 1;
  const place = rank === 0 ? `not among the top ${alternatives.length}` : `rank ${rank}`;
  const sentence = createElement("p", { role: "status" },
    createElement("b", {}, token.trim() || showWhitespace(token)), ` had ${formatPercent(probability)}, ${place}`);
  const rows = rank === 0 ? [...alternatives, [token, probability]] : alternatives;
  tooltip.replaceChildren(sentence, createBars(rows, token, Math.max(...rows.map(([, p]) => p))));
  tooltip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const { width, height } = tooltip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - width - 8));
  const below = box.bottom + 8 + height < innerHeight || box.top < height + 8;
  tooltip.style.left = `${left}px`;
  tooltip.style.top = `${below ? box.bottom + 8 : box.top - height - 8}px`;
}

export function hideTooltip() {
  $("tooltip").hidden = true;
}

addEventListener("scroll", hideTooltip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
