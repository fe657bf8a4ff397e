// A few shortcuts for the document.

export const $ = (id) => document.getElementById(id);

// make("p", { className: "hint" }, "words", anotherElement)
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// White space that would not be seen, as a mark.
export const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ /, "␣");

export const percent = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001
  ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";

export const whole = (number) => number?.toLocaleString("en") ?? "–";

// Words of how it goes. Read out are those that will stay, not each count on the way (`going`).
export function tell(place, words, going = false) {
  place.setAttribute("aria-live", going ? "off" : "polite");
  place.textContent = words;
}

// A button that cannot be pressed now keeps the keyboard's focus, unlike one that is disabled.
export const off = (button, yes) => button.setAttribute("aria-disabled", yes);

export const isOff = (button) => button.getAttribute("aria-disabled") === "true";

let timer;
// An error in plain words, for a while; Escape or a click takes it away.
export function trouble(words) {
  const place = $("trouble");
  place.textContent = words ?? "";
  place.hidden = !words;
  clearTimeout(timer);
  if (words) timer = setTimeout(() => { place.hidden = true; }, 20000);
}

// Enter sends a form from a textarea; Shift+Enter begins a line.
export function enterSends(form) {
  form.addEventListener("keydown", (event) => {
    const typing = event.target.tagName === "TEXTAREA" && !event.isComposing;
    if (event.key === "Enter" && !event.shiftKey && typing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
