// Loss curves as SVG, drawn here.

const NS = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 26;

// curves: [{ name, points: [[step, value], …] }]; marks: steps with a checkpoint; at: the chosen one.
export function draw(place, curves, marks, at) {
  const width = Math.max(240, place.clientWidth), height = place.clientHeight;
  const drawn = curves.filter((curve) => curve.points.length);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words(drawn, at) });
  if (!drawn.length) {
    svg.append(text(width / 2, height / 2, "No loss has been written down yet.", "middle"));
    place.replaceChildren(svg);
    return;
  }
  const { x, y, right, low, high } = scales(drawn, marks, width, height);
  for (const value of ticks(low, high, 4)) {
    svg.append(node("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      text(LEFT - 8, y(value) + 4, String(value), "end"));
  }
  for (const step of ticks(0, right, 5)) svg.append(text(x(step), height - 6, step.toLocaleString("en"), step ? "middle" : "start"));
  for (const { name, points } of drawn) {
    const path = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(node("path", { class: `curve ${name}`, d: path.join("") }));
  }
  for (const step of marks) svg.append(node("circle", { class: "stop", cx: x(step), cy: height - BOTTOM, r: 2.5 }));
  if (at !== null && at !== undefined) mark(svg, drawn, at, x, y, height);
  place.replaceChildren(svg);
}

function scales(drawn, marks, width, height) {
  const all = drawn.flatMap((curve) => curve.points);
  const values = all.map(([, value]) => value).sort((a, b) => a - b);
  // A loss falls steeply in the beginning: of many points the highest few may leave the picture.
  const low = values[0], top = values[Math.floor((values.length < 200 ? 1 : 0.99) * (values.length - 1))];
  const high = Math.max(top, low + 1e-3), margin = 0.06 * (high - low);
  const right = Math.max(1, ...all.map(([step]) => step), ...marks);
  const x = (step) => LEFT + (step / right) * (width - LEFT - RIGHT);
  const share = (value) => (Math.min(value, high) - low + margin) / (high - low + 2 * margin);
  return { x, y: (value) => height - BOTTOM - share(value) * (height - TOP - BOTTOM), right, low, high };
}

function mark(svg, drawn, at, x, y, height) {
  svg.append(node("line", { class: "at", x1: x(at), x2: x(at), y1: TOP, y2: height - BOTTOM }));
  const curve = drawn.find((each) => each.name === "valid") ?? drawn[0];
  svg.append(node("circle", { class: "dot", cx: x(at), cy: y(near(curve.points, at)[1]), r: 5 }));
}

export const near = (points, at) =>
  points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));

// Round numbers between the two, about so many.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + 1e-9; n++) found.push(Number((n * step).toPrecision(6)));
  return found;
}

function words(drawn, at) {
  const told = drawn.map(({ name, points }) => {
    const last = points.at(-1)[1].toFixed(3), first = points[0][1].toFixed(3);
    return `${name.replace("_", " ")} from ${first} to ${last}`;
  });
  return `Loss over steps: ${told.join("; ")}${at === null || at === undefined ? "" : `; step ${at} is marked`}`;
}

function node(name, attributes) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function text(x, y, words, anchor) {
  const element = node("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}
