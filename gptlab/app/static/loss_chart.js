// Draw loss curves as SVG.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 26; // margins in pixels

// details.curves as a list of { name, points: [[step, value], …] }, without the accuracy.
export const lossCurves = (details) => Object.entries(details.curves)
  .filter(([name]) => name !== "accuracy").map(([name, points]) => ({ name, points }));

// checkpointSteps get a dot each; currentStep, if not null, a line.
export function drawLossChart(container, curves, checkpointSteps, currentStep) {
  const width = Math.max(240, container.clientWidth), height = container.clientHeight;
  const visible = curves.filter((curve) => curve.points.length);
  const svg = createNode("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": describeChart(visible, currentStep) });
  if (!visible.length) {
    svg.append(createText(width / 2, height / 2, "No loss has been logged yet.", "middle"));
    container.replaceChildren(svg);
    return;
  }
  const { x, y, maxStep, low, high } = makeScales(visible, checkpointSteps, width, height);
  for (const value of roundTicks(low, high, 4)) {
    svg.append(createNode("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      createText(LEFT - 8, y(value) + 4, String(value), "end"));
  }
  for (const step of roundTicks(0, maxStep, 5)) {
    svg.append(createText(x(step), height - 6, step.toLocaleString("en"), step ? "middle" : "start"));
  }
  for (const { name, points } of visible) {
    const path = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(createNode("path", { class: `curve ${name}`, d: path.join("") }));
  }
  for (const step of checkpointSteps) {
    svg.append(createNode("circle", { class: "checkpoint", cx: x(step), cy: height - BOTTOM, r: 2.5 }));
  }
  if (currentStep !== null) markStep(svg, visible, currentStep, x, y, height);
  container.replaceChildren(svg);
}

function makeScales(curves, checkpointSteps, width, height) {
  const points = curves.flatMap((curve) => curve.points);
  const values = points.map(([, value]) => value).sort((a, b) => a - b);
  // The loss starts very high: in a long run the highest percent may leave the chart.
  const low = values[0], top = values[Math.floor((values.length < 200 ? 1 : 0.99) * (values.length - 1))];
  const high = Math.max(top, low + 1e-3), margin = 0.06 * (high - low);
  const maxStep = Math.max(1, ...points.map(([step]) => step), ...checkpointSteps);
  const x = (step) => LEFT + (step / maxStep) * (width - LEFT - RIGHT);
  const fraction = (value) => (Math.min(value, high) - low + margin) / (high - low + 2 * margin);
  return { x, y: (value) => height - BOTTOM - fraction(value) * (height - TOP - BOTTOM), maxStep, low, high };
}

function markStep(svg, curves, step, x, y, height) {
  svg.append(createNode("line", { class: "current-step", x1: x(step), x2: x(step), y1: TOP, y2: height - BOTTOM }));
  const curve = curves.find(({ name }) => name === "valid") ?? curves[0];
  svg.append(createNode("circle", { class: "current-loss", cx: x(step), cy: y(nearestPoint(curve.points, step)[1]), r: 5 }));
}

export const nearestPoint = (points, step) =>
  points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));

// About `count` round numbers from low to high.
function roundTicks(low, high, count) {
  const minimum = (high - low) / count, power = 10 ** Math.floor(Math.log10(minimum));
  const interval = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= minimum);
  const ticks = [];
  for (let n = Math.ceil(low / interval); n * interval <= high + 1e-9; n++) {
    ticks.push(Number((n * interval).toPrecision(6)));
  }
  return ticks;
}

function describeChart(curves, currentStep) {
  const parts = curves.map(({ name, points }) =>
    `${name.replace("_", " ")} from ${points[0][1].toFixed(3)} to ${points.at(-1)[1].toFixed(3)}`);
  return `Loss by step: ${parts.join("; ")}${currentStep === null ? "" : `; step ${currentStep} is marked`}`;
}

function createNode(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function createText(x, y, content, anchor) {
  const node = createNode("text", { x, y, "text-anchor": anchor });
  node.textContent = content;
  return node;
}
