// Helpers for the document.

export const $ = (id) => document.getElementById(id);

// createElement("p", { className: "hint" }, "text", anotherElement)
export function createElement(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Show white space that would be invisible as a symbol.
export const showWhitespace = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ /, "␣");

export const formatPercent = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001
  ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";

export const formatInteger = (number) => number?.toLocaleString("en") ?? "–";

export const plural = (count, noun) => `${formatInteger(count)} ${noun}${count === 1 ? "" : "s"}`;

// Screen readers announce the final status, not each count while `inProgress`.
export function setStatus(element, text, inProgress = false) {
  element.setAttribute("aria-live", inProgress ? "off" : "polite");
  element.textContent = text;
}

// Unlike `disabled`, aria-disabled keeps the keyboard's focus on the button.
export const setDisabled = (button, disabled) => button.setAttribute("aria-disabled", disabled);

export const isDisabled = (button) => button.getAttribute("aria-disabled") === "true";

let errorTimer;

// Show an error for 20 seconds; Escape or a click hides it.
export function showError(message) {
  $("error").textContent = message;
  $("error").hidden = false;
  clearTimeout(errorTimer);
  errorTimer = setTimeout(hideError, 20000);
}

export function hideError() {
  $("error").hidden = true;
}

// Enter in a textarea submits the form; Shift+Enter starts a new line.
export function submitOnEnter(form) {
  form.addEventListener("keydown", (event) => {
    const typing = event.target.tagName === "TEXTAREA" && !event.isComposing;
    if (event.key === "Enter" && !event.shiftKey && typing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
