// What the figures share: scales, ticks, axes, markers, and lines over steps.

const MARKS = [
  "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", "M-4,-4h8v8h-8z", "M0,-5.2L5,3.8H-5z", "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
  "M0,5.2L5,-3.8H-5z", "M-1.8,-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
  "M-5,-3l2,-2l3,3l3,-3l2,2l-3,3l3,3l-2,2l-3,-3l-3,3l-2,-2l3,-3z", "M-5.2,0L3.8,-5V5z", "M5.2,0L-3.8,-5V5z",
];

// Round numbers that cover a range, about `count` of them, at least `least` apart.
function ticks(low, high, count, least = 0) {
  const raw = Math.max(least, (high - low) / Math.max(1, count)), size = 10 ** Math.floor(Math.log10(raw));
  const away = (one) => Math.abs(Math.log(one / raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * size).filter((one) => !least || Number.isInteger(one)).reduce((a, b) => (away(b) < away(a) ? b : a));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) found.push(k * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (String(step / size) === "2.5" ? 1 : 0)) };
}

// A range with room at its ends; of equal numbers one around them.
function roomy(values, share = 0.07) {
  const low = Math.min(...values), high = Math.max(...values), size = high - low || Math.abs(high) * 0.1 || 1;
  return [low - share * size, high + share * size];
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// Axes with grid lines and their names, into `svg`; gives the scales of x and y.
function axes(svg, { width, height, left = 46, right = 14, top = 26, bottom = 42, x, y, xName, yName, xTicks, xText, log, whole }) {
  const toX = scale(x, [left, width - right]), toY = scale(y, [height - bottom, top]);
  const ys = ticks(y[0], y[1], Math.max(3, (height - top - bottom) / 48));
  const yTexts = log ? ys.values.filter(Number.isInteger) : ys.values;
  for (const value of yTexts) {
    svg.append(g("line", { class: "grid", x1: left, x2: width - right, y1: toY(value), y2: toY(value) }),
      g("text", { class: "tick", x: left - 7, y: toY(value) + 4, "text-anchor": "end" },
        log ? (value < -3 ? `1e${value}`.replace("-", "−") : 10 ** value) : value.toFixed(ys.digits).replace("-", "−")));
  }
  const xs = xTicks ? { values: xTicks, digits: 0 } : ticks(x[0], x[1], Math.max(2, (width - left - right) / 80), whole ? 1 : 0);
  for (const value of xs.values)
    svg.append(g("line", { class: "grid", x1: toX(value), x2: toX(value), y1: top, y2: height - bottom }),
      g("text", { class: "tick", x: toX(value), y: height - bottom + 17, "text-anchor": "middle" },
        xText ? xText(value) : value.toFixed(xs.digits).replace("-", "−")));
  if (xName)
    svg.append(g("text", { class: "axis", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xName));
  if (yName) svg.append(g("text", { class: "axis", x: 2, y: 11, "text-anchor": "start" }, yName));
  return [toX, toY];
}

function canvas(width, height, label) {
  return g("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
}

function mark(shape, x, y, attributes) {
  return g("path", { d: MARKS[shape % MARKS.length], transform: `translate(${x},${y})`, ...attributes });
}

function pathOf(places) {
  return places.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
}

// Lines over steps. lines: [{name, color, dash, values: [[x, y], ...]}]; `log` draws powers of ten.
function lines(label, all, { width, height = 190, yName, xName, xTicks, xText, log = false, whole = false, bounds = [] }) {
  const known = all.map((one) => ({
    ...one,
    values: one.values.filter(([, y]) => y !== null && (!log || y > 0)).map(([x, y]) => [x, log ? Math.log10(y) : y]),
  })).filter((one) => one.values.length);
  if (!known.length) return null;
  const every = known.flatMap((one) => one.values), svg = canvas(width, height, label);
  const xs = every.map(([x]) => x), low = Math.min(...xs), high = Math.max(...xs);
  let y = roomy(every.map((one) => one[1]));
  if (log) y = [Math.floor(y[0]), Math.ceil(y[1])];
  const x = low === high ? [low - 1, high + 1] : xTicks ? roomy(xs, 0.08) : [low, high];
  const [toX, toY] = axes(svg, { width, height, x, y, xName, yName, xTicks, xText, log, whole });
  for (const bound of bounds)
    svg.append(g("line", { class: "bound", x1: toX(bound), x2: toX(bound), y1: 26, y2: height - 42 }));
  for (const one of known) {
    const places = one.values.map(([px, py]) => [toX(px), toY(py)]);
    svg.append(g("path", { class: one.faded ? "line faded" : "line", d: pathOf(places), stroke: one.color,
      "stroke-dasharray": one.dash || null }));
    if (xTicks || places.length === 1)
      for (const [px, py] of places)
        svg.append(mark(0, px, py, { fill: one.color, class: one.faded ? "faded" : null }));
  }
  return svg;
}

function legend(items) {
  return h("ul", { class: "legend" }, items.map(({ name, color, shape, dash, hollow }) =>
    h("li", {}, g("svg", { width: 22, height: 14, viewBox: "-11 -7 22 14", "aria-hidden": "true" },
      dash !== undefined ? g("line", { x1: -10, x2: 10, y1: 0, y2: 0, stroke: color, "stroke-width": 2,
        "stroke-dasharray": dash || null }) : null,
      shape !== undefined ? mark(shape, 0, 0, hollow ? { class: "hollow", stroke: color } : { fill: color }) : null),
      h("span", {}, cut(name, 80)))));
}
