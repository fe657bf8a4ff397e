// The view for a classifier: a message and the probability of each class.
import { post } from "./api.js";
import { $, hideError, plural, showError, submitOnEnter } from "./dom.js";
import { markUnknown, offerExamples } from "./prompt_match.js";
import { state } from "./state.js";
import { createBars } from "./token_text.js";

export function init() {
  offerExamples($("message-examples"), $("message"));
  const updateMarks = markUnknown($("message"));
  submitOnEnter($("classify-form"));
  $("classify-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    hideError();
    try {
      const result = await classify(state.selection, $("message").value);
      updateMarks(); // the model may not have been loaded before
      $("classes").replaceChildren(createClassBars(result));
      const cut = result.tokens_read < result.tokens ? `; the model reads the first ${result.tokens_read}` : "";
      $("classify-status").textContent = `${result.classes[0].name}. ${plural(result.tokens, "token")}${cut}.`;
    } catch (error) {
      showError(error.message);
    }
  });
  state.addEventListener("model", () => {
    $("classes").replaceChildren();
    $("classify-status").textContent = "";
  });
}

export const classify = (selection, text) => post("/api/classify", { ...selection, text });

export const createClassBars = ({ classes }) =>
  createBars(classes.map(({ name, probability }) => [name, probability]), classes[0].name);
