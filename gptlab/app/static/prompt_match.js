// Below a prompt: which parts of it the model never saw, and prompts of the run's own kind to try.
import { post } from "./api.js";
import { createElement } from "./dom.js";
import { state } from "./state.js";

const DELAY = 300; // milliseconds after the last key
const MAX_LENGTH = 2000; // characters shown

// Mark the unknown parts of a textarea's text below it. Return a function that updates the marks.
export function markUnknown(textarea) {
  const words = createElement("p", { className: "hint", role: "status" });
  const preview = createElement("p", { className: "preview", "aria-hidden": "true", dir: "auto" });
  const element = createElement("div", { className: "prompt-match", hidden: true }, words, preview);
  textarea.after(element);
  let timer = null, latest = null;
  const update = async () => {
    clearTimeout(timer);
    const request = latest = {}, text = textarea.value;
    const parts = text.trim() && state.run ? await matchPrompt(text) : [];
    if (request === latest) show(parts);
  };
  const show = (parts) => {
    const skipped = [...new Set(parts.filter(([, read]) => !read).map(([typed]) => typed.trim()))].filter(Boolean);
    const other = parts.filter(([typed, read]) => read && /[\p{L}\p{N}]/u.test(typed) && typed.trim() !== read.trim());
    element.hidden = !skipped.length && !other.length;
    words.textContent = [
      skipped.length ? `Skipped, because the model never saw it: ${skipped.join(", ").slice(0, MAX_LENGTH)}.` : "",
      other.length ? `Read as: ${other.map(([, read]) => read.trim()).join(", ").slice(0, MAX_LENGTH)}.` : "",
    ].filter(Boolean).join(" ");
    preview.replaceChildren(...parts.map(([typed, read]) => read
      ? createElement("span", {}, read === typed ? typed : typed.replace(typed.trim(), () => read.trim()))
      : createElement("s", {}, typed)));
  };
  textarea.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, DELAY); });
  state.addEventListener("model", update);
  return update;
}

async function matchPrompt(text) {
  try {
    return (await post("/api/match_prompt", { ...state.selection, text })).parts;
  } catch {
    return []; // generating shows the reason
  }
}

// Fill a textarea with the run's first example unless the reader has typed something, and offer the others.
export function offerExamples(container, textarea, input) {
  let offered = "";
  const fill = ({ prompt, input: text = "" }) => {
    textarea.value = prompt;
    if (input) input.value = text;
    offered = prompt;
    textarea.dispatchEvent(new Event("input"));
  };
  state.addEventListener("model", () => {
    const examples = state.details.examples ?? [];
    if (examples.length && (textarea.value === offered || !textarea.value)) fill(examples[0]);
    container.hidden = examples.length < 2;
    container.replaceChildren("Try: ", ...examples.map((example) => createElement("button",
      { type: "button", className: "quiet", title: example.input ? `${example.prompt}\n${example.input}` : example.prompt,
        onclick: () => { fill(example); textarea.focus(); } }, example.prompt)));
  });
}
