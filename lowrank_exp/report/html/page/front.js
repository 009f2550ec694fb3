// The front: accuracy against a cost, a point per configuration, the dense network as a line, what papers printed hollow.

const SHARE = { macs: "MACs", weights: "weights", bytes: "file size" };

function frontSection(experiment, state, redraw) {
  const box = h("div", { class: "figure" }), section = h("section", { id: "front", "aria-labelledby": "front-title" },
    h("h2", { id: "front-title" }, "What accuracy costs"), box);
  const costs = DATA.costs.filter((cost) => experiment.rows.some((k) => DATA.rows[k].cells[cost.absolute]));
  if (!costs.length || !("accuracy" in COLUMN)) {
    box.append(h("p", { class: "quiet" }, "No run has both an accuracy and a cost."));
    return section;
  }
  const sizes = costs.filter((cost) => cost.key in SHARE), timed = costs.filter((cost) => !(cost.key in SHARE));
  const cost = costs.find((one) => one.key === state.cost) || costs[0];
  const relative = cost.relative !== null && state.scale !== "absolute" &&
    experiment.rows.some((k) => DATA.rows[k].cells[cost.relative]);
  const kinds = [...sizes.map((one) => [one.key, SHARE[one.key]]), ...(timed.length ? [["time", "time"]] : [])];
  const kind = cost.key in SHARE ? cost.key : "time";
  section.insertBefore(h("div", { class: "controls" },
    choice("against", kinds, kind, (value) => redraw({ cost: value === "time" ? timed[0].key : value })),
    kind === "time" && timed.length > 1
      ? listed("timed by", timed.map((one) => [one.key, one.label]), cost.key, (value) => redraw({ cost: value })) : null,
    cost.relative === null ? null : choice("as", [["relative", "share of the dense network"], ["absolute", "number"]],
      relative ? "relative" : "absolute", (value) => redraw({ scale: value }))), box);
  drawnLater(box, (width) => frontFigure(experiment, cost, relative, width));
  return section;
}

// Draw when the width of the box is known, and again when it changes.
function drawnLater(box, draw) {
  const again = () => box.clientWidth && box.replaceChildren(...[draw(box.clientWidth)].flat());
  requestAnimationFrame(again);
  RESIZED.push(() => box.isConnected && again());
}

const RESIZED = [];

function costOf(row, cost, relative) {
  const cell = row.cells[relative ? cost.relative : cost.absolute];
  if (!cell) return null;
  const by = cell.length > 1 ? cell[1] : 0;
  if (!relative) return [cell[0] * (UNITS_OF[cost.key] || 1), by * (UNITS_OF[cost.key] || 1)];
  if (cost.key in SHARE) return [100 * cell[0], 100 * by];
  return [100 / cell[0], (100 * by) / cell[0] ** 2]; // the column has how many times as fast it is
}

const UNITS_OF = { macs: 1e-6, weights: 1e-3, bytes: 1e-3 };

function costName(cost, relative) {
  if (relative) return `${SHARE[cost.key] || "time"}, % of the dense network's`;
  return { macs: "MACs, million", weights: "weights, thousand", bytes: "file, kB" }[cost.key] || "time of one pass, ms";
}

// Colour and marker of every series: method, decomposition and, where these differ, the policy.
function seriesOf(experiment) {
  const rows = experiment.rows.map((k) => DATA.rows[k]);
  const several = new Set(rows.map((row) => row.policy)).size > 1;
  const name = (row) => [row.series, several ? row.policy : ""].filter(Boolean).join(", ") || "jobs";
  const names = [...new Set(rows.filter((row) => row.n).map(name))];
  const look = (row) => {
    const k = names.indexOf(name(row));
    return { color: DATA.colors[k % DATA.colors.length], shape: k % MARKS.length };
  };
  return { names, name, look };
}

function frontFigure(experiment, cost, relative, width) {
  const series = seriesOf(experiment), front = new Set(experiment.fronts[cost.key] || []);
  const shown = experiment.rows.map((k) => ({ k, row: DATA.rows[k], x: costOf(DATA.rows[k], cost, relative) }))
    .filter((one) => one.x && mean(one.row, "accuracy") !== null)
    .map((one) => ({ ...one, y: [100 * mean(one.row, "accuracy"), 100 * (spread(one.row, "accuracy") || 0)] }));
  const printed = publishedPoints(experiment, cost, relative);
  const dense = experiment.dense.map((value) => 100 * value);
  const height = Math.max(300, Math.min(460, width * 0.55));
  const svg = canvas(width, height, `accuracy in percent against ${costName(cost, relative)}, ${shown.length} configurations`);
  svg.setAttribute("role", "group");
  const xs = [...shown.flatMap(({ x }) => [x[0] - x[1], x[0] + x[1]]), ...printed.map(({ x }) => x)];
  const ys = [...shown.flatMap(({ y }) => [y[0] - y[1], y[0] + y[1]]), ...printed.map(({ y }) => y), ...dense];
  const [toX, toY] = axes(svg, { width, height, x: roomy(xs), y: roomy(ys), xName: costName(cost, relative), yName: "accuracy, %" });
  const labels = [], taken = [], tip = h("div", { class: "tip", hidden: true });
  if (dense.length && dense.length < 4) for (const value of dense) {
    svg.append(g("line", { class: "dense", x1: 46, x2: width - 14, y1: toY(value), y2: toY(value) }));
    labels.push({ text: `dense network ${value.toFixed(2)} %`, x: width - 16, y: toY(value), only: ["above-left", "below-left"], class: "dense" });
    taken.push([46, toY(value) - 1, width - 14, toY(value) + 1]);
  }
  const best = shown.filter(({ k }) => front.has(k)).sort((a, b) => a.x[0] - b.x[0]);
  const steps = best.flatMap(({ x, y }, k) => [...(k ? [[toX(x[0]), toY(best[k - 1].y[0])]] : []), [toX(x[0]), toY(y[0])]]);
  taken.push(...steps.slice(1).map(([px, py], k) =>
    [Math.min(px, steps[k][0]), Math.min(py, steps[k][1]) - 1, Math.max(px, steps[k][0]), Math.max(py, steps[k][1]) + 1]));
  if (best.length > 1) svg.append(g("path", { class: "front", d: pathOf(steps) }));
  for (const one of printed) {
    const of = one.row === null ? null : shown.find(({ k }) => k === one.row);
    const color = of ? series.look(of.row).color : "var(--quiet)", [px, py] = [toX(one.x), toY(one.y)];
    if (of) svg.append(g("line", { class: "tie", stroke: color, x1: px, y1: py, x2: toX(of.x[0]), y2: toY(of.y[0]) }));
    const point = g("g", { class: "published", tabindex: 0, role: "img", "aria-label": `published: ${one.label}` },
      mark(of ? series.look(of.row).shape : 0, px, py, { class: "hollow", stroke: color }));
    hint(point, tip, px, py, width, [`${one.label}, as published`, `accuracy ${one.y.toFixed(2)} %`, `${costName(cost, relative)}: ${big(one.x)}`]);
    svg.append(point);
    taken.push([px - 6, py - 6, px + 6, py + 6]);
  }
  for (const one of [...shown].sort((a, b) => front.has(a.k) - front.has(b.k))) {
    const [px, py] = [toX(one.x[0]), toY(one.y[0])], { color, shape } = series.look(one.row), on = front.has(one.k);
    const warned = one.row.jobs.some((job) => job.told.length);
    const point = g("a", { class: `point${on ? " best" : ""}${on || one.row.control ? "" : " dominated"}`, href: address({ run: one.k }), "data-row": one.k,
      "aria-label": `${one.row.label}: accuracy ${one.y[0].toFixed(2)} %, ${costName(cost, relative)} ${big(one.x[0])}` },
      g("circle", { class: "target", cx: px, cy: py, r: 11 }),
      one.y[1] ? g("path", { class: "whisker", stroke: color, d: whisker(toX(one.x[0]), toY(one.y[0] - one.y[1]), toY(one.y[0] + one.y[1]), false) }) : null,
      one.x[1] ? g("path", { class: "whisker", stroke: color, d: whisker(toY(one.y[0]), toX(one.x[0] - one.x[1]), toX(one.x[0] + one.x[1]), true) }) : null,
      warned ? g("circle", { class: "warned", cx: px, cy: py, r: 8 }) : null,
      searched(one.row) ? g("rect", { class: "searched", x: px - 8, y: py - 8, width: 16, height: 16 }) : null, mark(shape, px, py, { fill: color, class: "mark" }));
    hint(point, tip, px, py, width, [one.row.label, accuracyLine(one), `${costName(cost, relative)}: ${big(one.x[0])}`,
      searched(one.row) ? `on the front of its search, by validation images: ${searched(one.row)}` : null,
      one.row.control ? `control: ${one.row.control}` : on ? "on the front" : "another is as good and cheaper"].filter(Boolean));
    link(point, one.k);
    svg.append(point);
    taken.push([px - 7, py - 7, px + 7, py + 7]);
    if (one.y[1]) taken.push([px - 4, toY(one.y[0] + one.y[1]), px + 4, toY(one.y[0] - one.y[1])]);
    if (on) labels.push({ text: cut(one.row.label, width < 600 ? 18 : 34), x: px, y: py, class: "name" });
  }
  placeLabels(svg, labels, taken, width, height);
  return [h("div", { class: "plot" }, svg, tip), legend([
    ...series.names.map((name, k) => ({ name, color: DATA.colors[k % DATA.colors.length], shape: k % MARKS.length })),
    ...(printed.length ? [{ name: "published", color: "var(--quiet)", shape: 0, hollow: true }] : []),
    ...(best.length > 1 ? [{ name: "front: no other is as accurate and cheaper", color: "var(--front)", dash: "" }] : []),
  ]), h("p", { class: "quiet" }, "Whiskers: one standard deviation over seeds. Faded: another network is at least as accurate and costs less. Ringed: its jobs have warnings.",
    shown.some(({ row }) => searched(row)) ? " Boxed: on the front of a search, which validation images have decided." : "",
    cost.key in SHARE ? "" : ` Timed by ${cost.label}.`)];
}

// The objectives of the search on whose front a row is.
function searched(row) {
  return "front" in COLUMN ? row.cells[COLUMN.front] : "";
}

function accuracyLine({ row, y }) {
  const change = mean(row, "accuracy_change");
  return `accuracy ${y[0].toFixed(2)} %${y[1] ? ` ± ${y[1].toFixed(2)}` : ""}${change === null ? "" : `, ${points(change)} points against dense`}, ${row.n} seed${row.n === 1 ? "" : "s"}`;
}

// What papers printed, where they printed this cost; absolute, where our row of that name says what the dense one costs.
function publishedPoints(experiment, cost, relative) {
  const key = cost.key in SHARE ? `${cost.key}_ratio` : "latency_ms_ratio", found = [];
  for (const one of experiment.published) {
    if (!(key in one)) continue;
    let x = 100 * one[key];
    if (!relative) {
      const mine = one.row === null ? null : DATA.rows[one.row], left = mine && costOf(mine, cost, true), now = mine && costOf(mine, cost, false);
      if (!left || !now) continue;
      x *= now[0] / left[0];
    }
    found.push({ label: one.label, x, y: 100 * one.accuracy, row: one.row });
  }
  return found;
}

function whisker(at, from, to, flat) {
  return flat ? `M${from},${at}H${to}M${from},${at - 3}v6M${to},${at - 3}v6` : `M${at},${from}V${to}M${at - 3},${from}h6M${at - 3},${to}h6`;
}

// Show lines of text beside a point while it is pointed at or has the focus.
function hint(element, tip, x, y, width, texts) {
  const show = () => {
    tip.replaceChildren(...texts.map((text, k) => h(k ? "div" : "strong", {}, cut(text, 240))));
    tip.hidden = false;
    const left = Math.max(0, Math.min(x + 14, width - tip.offsetWidth));
    Object.assign(tip.style, { left: `${left}px`, top: `${y - tip.offsetHeight - 12 < 0 ? y + 14 : y - tip.offsetHeight - 12}px` });
  };
  const hide = () => { tip.hidden = true; };
  for (const name of ["pointerenter", "focus"]) element.addEventListener(name, show);
  for (const name of ["pointerleave", "blur"]) element.addEventListener(name, hide);
}

// A point and a line of the table that are of one row light up together.
function link(element, k) {
  const light = (on) => document.querySelectorAll(`[data-row="${k}"]`).forEach((one) => one.classList.toggle("lit", on));
  for (const name of ["pointerenter", "focusin"]) element.addEventListener(name, () => light(true));
  for (const name of ["pointerleave", "focusout"]) element.addEventListener(name, () => light(false));
}

const LETTER = 6.4, LINE = 13; // pixels that a letter and a line of a label take, a little more than they do

// Labels where they cover neither a point nor another label nor the edge; those for which there is no room are left out.
function placeLabels(svg, labels, taken, width, height) {
  for (const label of labels) {
    const wide = [...label.text].length * LETTER + 2;
    const spots = { right: [12, 4, "start"], left: [-12, 4, "end"], above: [0, -12, "middle"], below: [0, 20, "middle"],
      "above-left": [0, -6, "end"], "below-left": [0, 15, "end"] };
    for (const name of label.only || ["above", "right", "left", "below", "above-left", "below-left"]) {
      const [dx, dy, anchor] = spots[name], x = label.x + dx, y = label.y + dy;
      const from = anchor === "start" ? x : anchor === "end" ? x - wide : x - wide / 2;
      const box = [from, y - LINE + 2, from + wide, y + 3];
      const free = box[0] > 48 && box[2] < width - 2 && box[1] > 16 && box[3] < height - 44 &&
        taken.every((one) => box[2] < one[0] || box[0] > one[2] || box[3] < one[1] || box[1] > one[3]);
      if (!free) continue;
      taken.push(box);
      svg.append(g("text", { class: `label ${label.class}`, x, y, "text-anchor": anchor }, label.text));
      break;
    }
  }
}
