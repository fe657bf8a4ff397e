// Classify: of a run that tells classes apart.
import { post } from "./api.js";
import { $, enterSends, trouble } from "./dom.js";
import { state } from "./state.js";
import { bars } from "./tokens.js";

export function begin() {
  enterSends($("message-form"));
  $("message-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    trouble();
    try {
      const found = await classes(state.which, $("message").value);
      $("classes").replaceChildren(verdict(found));
      const cut = found.read < found.tokens ? `; the model reads the first ${found.read}` : "";
      $("class-status").textContent = `${found.classes[0].name}. ${found.tokens} tokens${cut}.`;
    } catch (error) {
      trouble(error.message);
    }
  });
  state.addEventListener("change", () => {
    $("classes").replaceChildren();
    $("class-status").textContent = "";
  });
}

export const classes = (which, text) => post("/api/classify", { ...which, text, unknown: "skip" });

export const verdict = (found) =>
  bars(found.classes.map((each) => [each.name, each.probability]), found.classes[0].name);
