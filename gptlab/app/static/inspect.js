// The view that inspects a model on a text: surprise, attention, logit lens, nearest tokens.
import { post } from "./api.js";
import { $, createElement, formatPercent, hideError, plural, showError, showWhitespace, submitOnEnter } from "./dom.js";
import { latestText } from "./generate.js";
import { markUnknown } from "./prompt_match.js";
import { setOptions, state } from "./state.js";
import { TokenText } from "./token_text.js";

let attention = null; // response for the selected layer: tokens, and for each head a flat T × T table
let head = 0; // index of the selected head
let outdated = true, latestRequest = null;
let copiedText = ""; // taken from the generate view; a different text in the field is the reader's own

export function init() {
  markUnknown($("inspect-text"));
  submitOnEnter($("inspect-form"));
  $("inspect-form").addEventListener("submit", (event) => { event.preventDefault(); inspect(); });
  $("layer").addEventListener("change", async () => {
    try {
      await loadAttention();
    } catch (error) {
      showError(error.message);
    }
  });
  state.addEventListener("model", () => { outdated = true; if (!$("inspect").hidden) inspect(); });
}

export function show() {
  const text = latestText(), field = $("inspect-text");
  const replace = (field.value === copiedText || field.value === "") && text !== field.value;
  if (replace) field.value = copiedText = text;
  if (replace || outdated) inspect();
}

const requestBody = () => ({ ...state.selection, text: $("inspect-text").value });

async function inspect() {
  const request = latestRequest = {};
  $("inspect-status").textContent = "Inspecting …";
  hideError();
  try {
    const [surprise, lens, nearest] = await Promise.all(
      ["surprise", "logit_lens", "nearest_tokens"].map((name) => post(`/api/${name}`, requestBody())));
    if (request !== latestRequest) return; // replaced by a newer request
    showSurprise(surprise);
    showLogitLens(lens);
    showNearestTokens(nearest);
    setOptions($("layer"), lens.layers.slice(1).map((_, i) => String(i)), undefined);
    await loadAttention();
    $("inspect-results").hidden = false;
    outdated = false;
    $("inspect-status").textContent = `${plural(lens.tokens.length, "token")}.`;
  } catch (error) {
    if (request !== latestRequest) return;
    $("inspect-status").textContent = "";
    showError(error.message);
  }
}

function showSurprise({ first, tokens }) {
  const text = new TokenText(first === "<|endoftext|>" ? "" : first, "Surprise, token by token");
  text.add(tokens.map((token) => ({ ...token, text: token.token })));
  text.element.classList.add("colored");
  $("surprise").replaceChildren(text.element);
}

function showLogitLens({ tokens, layers }) {
  const rows = layers.map(({ predictions, probabilities }, number) => {
    const cells = predictions.map((word, i) => {
      const title = `${showWhitespace(word)} ${formatPercent(probabilities[i])}`;
      const cell = createElement("td", { title }, showWhitespace(word));
      cell.style.setProperty("--strength", probabilities[i]);
      return cell;
    });
    const name = number ? `layer ${number - 1}` : "embedding";
    return createElement("tr", {}, createElement("th", { scope: "row" }, name), ...cells);
  });
  const textRow = createElement("tr", {}, createElement("th", { scope: "col" }, "text"),
    ...tokens.map((token) => createElement("th", { scope: "col" }, showWhitespace(token))));
  $("logit-lens").replaceChildren(createElement("table", {}, createElement("tbody", {}, ...rows.reverse(), textRow)));
}

function showNearestTokens({ tokens }) {
  const rows = tokens.map(({ token, nearest }) => createElement("tr", {},
    createElement("th", { scope: "row" }, showWhitespace(token)),
    createElement("td", {}, nearest.map(([word, cosine]) => `${showWhitespace(word)} ${cosine.toFixed(2)}`).join(", "))));
  $("nearest-tokens").replaceChildren(createElement("table", {}, createElement("tbody", {}, ...rows)));
}

async function loadAttention() {
  attention = await post("/api/attention", { ...requestBody(), layer: Number($("layer").value || 0) });
  $("heads").replaceChildren(...attention.heads.map(createHeadButton));
  selectHead(Math.min(head, attention.heads.length - 1));
}

// A button that shows the head's weights as a picture.
function createHeadButton(weights, number) {
  const size = attention.tokens.length;
  const canvas = createElement("canvas", { width: size, height: size, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  const [r, g, b] = getComputedStyle($("heads")).getPropertyValue("color").match(/\d+/g).map(Number);
  weights.forEach((weight, i) => {
    image.data.set([r, g, b, 255 * (weight / 1000) ** 0.4], 4 * i); // the power makes weak weights visible
  });
  context.putImageData(image, 0, 0);
  return createElement("button", { type: "button", role: "radio", "aria-label": `Head ${number}`,
    title: `Head ${number}`, onclick: () => selectHead(number), onkeydown: handleHeadKey }, canvas);
}

function handleHeadKey(event) {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  selectHead((head + move + attention.heads.length) % attention.heads.length);
  $("heads").children[head].focus();
}

function selectHead(number) {
  head = number;
  [...$("heads").children].forEach((button, i) => {
    button.setAttribute("aria-checked", i === number);
    button.tabIndex = i === number ? 0 : -1;
  });
  $("attention").replaceChildren(new AttentionText().element);
}

// The text; the tokens that the current one attends to are colored.
class AttentionText extends TokenText {
  constructor() {
    super("", "Attention: arrow keys choose the token that attends");
    this.add(attention.tokens.map((token) => ({ text: token, token, probability: 1, alternatives: [] })));
    this.element.classList.add("attended");
    this.show(attention.tokens.length - 1);
  }

  show(index) {
    const size = attention.tokens.length, row = attention.heads[head].slice(index * size, (index + 1) * size);
    this.element.querySelectorAll(".token").forEach((span, i) => {
      span.style.setProperty("--strength", 0.75 * Math.sqrt((row[i] ?? 0) / 1000));
      span.classList.toggle("current", i === index);
    });
    const strongest = row.indexOf(Math.max(...row));
    const [from, to] = [index, strongest].map((i) => showWhitespace(attention.tokens[i]));
    this.element.setAttribute("aria-description", `${from} attends to ${to} with ${formatPercent(row[strongest] / 1000)}`);
  }

  clearCurrent() {} // one token is always current
}
