// Look inside: surprise, attention and the logit lens of a text.
import { post } from "./api.js";
import { $, enterSends, make, percent, trouble, visible } from "./dom.js";
import { fill, state } from "./state.js";
import { TokenText } from "./tokens.js";
import { lastText } from "./write.js";

let found = null, head = 0, stale = true, latest = null;
let taken = ""; // the text last taken from Write; another in the field is the reader's own

export function begin() {
  enterSends($("look-form"));
  $("look-form").addEventListener("submit", (event) => { event.preventDefault(); look(); });
  $("layer").addEventListener("change", async () => {
    try {
      await attention();
    } catch (error) {
      trouble(error.message);
    }
  });
  state.addEventListener("change", () => { stale = true; if (!$("inside").hidden) look(); });
}

export function show() {
  const written = lastText(), own = $("look-text").value;
  const fresh = (own === taken || own === "") && written !== own;
  if (fresh) $("look-text").value = taken = written;
  if (fresh || stale) look();
}

const request = () => ({ ...state.which, text: $("look-text").value, unknown: "skip" });

async function look() {
  const mine = latest = {};
  $("look-status").textContent = "Looking …";
  trouble();
  try {
    const looks = ["surprise", "lens", "neighbours"].map((name) => post(`/api/${name}`, request()));
    const [expected, layers, alike] = await Promise.all(looks);
    if (mine !== latest) return; // another look was asked for meanwhile
    surprise(expected);
    lens(layers);
    neighbours(alike);
    fill($("layer"), layers.layers.slice(1).map((_, i) => String(i)), undefined);
    await attention();
    $("looks").hidden = false;
    stale = false;
    $("look-status").textContent = `${layers.tokens.length} tokens.`;
  } catch (error) {
    if (mine !== latest) return;
    $("look-status").textContent = "";
    trouble(error.message);
  }
}

function surprise({ first, tokens }) {
  const text = new TokenText(first === "<|endoftext|>" ? "" : first, "Surprise, token by token");
  text.add(tokens.map((token) => ({ ...token, text: token.token })));
  text.element.classList.add("coloured");
  $("surprise").replaceChildren(text.element);
}

function lens({ tokens, layers }) {
  const rows = layers.map((layer, number) => {
    const name = number ? `layer ${number - 1}` : "embedding";
    const cells = layer.words.map((word, at) => {
      const cell = make("td", { title: `${visible(word)} ${percent(layer.probabilities[at])}` }, visible(word));
      cell.style.setProperty("--much", layer.probabilities[at]);
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
  });
  const head = make("tr", {}, make("th", { scope: "col" }, "reads"),
    ...tokens.map((token) => make("th", { scope: "col" }, visible(token))));
  $("lens").replaceChildren(make("table", {}, make("tbody", {}, ...rows.reverse(), head)));
}

function neighbours({ tokens }) {
  const rows = tokens.map(({ token, neighbours }) => make("tr", {},
    make("th", { scope: "row" }, visible(token)),
    make("td", {}, neighbours.map(([word, cosine]) => `${visible(word)} ${cosine.toFixed(2)}`).join(", "))));
  $("neighbours").replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
}

async function attention() {
  found = await post("/api/attention", { ...request(), layer: Number($("layer").value || 0) });
  head = Math.min(head, found.heads.length - 1);
  $("heads").replaceChildren(...found.heads.map((table, number) => thumbnail(table, number)));
  chooseHead(head);
}

// A head as a square picture, to choose it by.
function thumbnail(table, number) {
  const size = found.tokens.length;
  const canvas = make("canvas", { width: size, height: size, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  const [r, g, b] = getComputedStyle($("heads")).getPropertyValue("color").match(/\d+/g).map(Number);
  table.forEach((weight, at) => {
    image.data.set([r, g, b, 255 * (weight / 1000) ** 0.4], 4 * at); // so that weak ones show
  });
  context.putImageData(image, 0, 0);
  return make("button", { type: "button", role: "radio", "aria-label": `Head ${number}`,
    title: `Head ${number}`, onclick: () => chooseHead(number), onkeydown: moveHead }, canvas);
}

function moveHead(event) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  chooseHead((head + by + found.heads.length) % found.heads.length);
  $("heads").children[head].focus();
}

function chooseHead(number) {
  head = number;
  [...$("heads").children].forEach((button, i) => {
    button.setAttribute("aria-checked", i === number);
    button.tabIndex = i === number ? 0 : -1;
  });
  $("attended").replaceChildren(new Attended().element);
}

// The text; the token pointed at looks at those that are coloured.
class Attended extends TokenText {
  constructor() {
    super("", "Attention: arrow keys choose the token that looks");
    this.add(found.tokens.map((token) => ({ text: token, token, probability: 1, likeliest: [] })));
    this.element.classList.add("looked");
    this.show(found.tokens.length - 1);
  }

  show(at) {
    const size = found.tokens.length, row = found.heads[head].slice(at * size, at * size + size);
    this.element.querySelectorAll(".token").forEach((span, i) => {
      span.style.setProperty("--much", 0.75 * Math.sqrt((row[i] ?? 0) / 1000));
      span.classList.toggle("here", i === at);
    });
    const most = row.indexOf(Math.max(...row));
    this.element.setAttribute("aria-description",
      `${visible(found.tokens[at])} takes ${percent(row[most] / 1000)} from ${visible(found.tokens[most])}`);
  }

  unmark() {}
}
