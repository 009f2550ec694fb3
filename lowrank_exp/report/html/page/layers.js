// The layers of a run: what each cost before and after, its rank, why it was left alone, and the spectra that ranks cut.

function layersSection(job) {
  const layers = layersOf(job);
  if (!layers.length) return section("Layers", h("p", { class: "quiet" }, "No layers were recorded."));
  const most = Math.max(...layers.map((layer) => Math.max(layer.macs_before || 0, layer.macs_after || 0)), 1);
  const lost = [["response_error", "response error"], ["weight_error", "weight error"], ["accuracy_alone", "accuracy alone"]]
    .filter(([key]) => layers.some((layer) => layer[key] !== null && layer[key] !== undefined));
  const head = ["layer", "MACs before (outline) and after", "remain", "rank", "decomposition", ...lost.map(([, name]) => name), "why"];
  return section("Layers", h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "layers" },
    h("table", { class: "layers" }, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, layers.map((layer) => h("tr", {}, h("th", { scope: "row", dir: "auto" }, cut(layer.name, 60)),
        h("td", {}, bar(layer.macs_before, layer.macs_after, most)),
        h("td", { class: "number" }, left(layer)), h("td", { class: "number" }, rankOf(layer)),
        h("td", {}, layer.decomposition || "dense"),
        lost.map(([key]) => h("td", { class: "number" }, percent(layer[key]))), h("td", { class: "why" }, layer.reason || "")))))),
    spectra(layers));
}

function left(layer) {
  return layer.macs_before && layer.macs_after !== undefined ? percent(layer.macs_after / layer.macs_before, 1) : "";
}

function rankOf(layer) {
  const rank = rankText(layer.rank);
  return rank && layer.full_rank ? `${rank} of ${rankText(layer.full_rank)}` : rank;
}

// The dense cost as an outline, what remains of it filled.
function bar(before, after, most) {
  const width = 180, of = (value) => Math.max(value ? 1 : 0, (value / most) * (width - 2));
  if (before === null || before === undefined) return "";
  return h("span", { class: "bar" }, g("svg", { viewBox: `0 0 ${width} 14`, width, height: 14, role: "img",
    "aria-label": `${big(before)} MACs before, ${big(after)} after` },
    g("rect", { class: "before", x: 1, y: 1.5, width: of(before), height: 11 }),
    g("rect", { class: after > before ? "after more" : "after", x: 1, y: 3.5, width: of(after || 0), height: 7 })),
    h("span", { class: "quiet" }, `${big(before)} → ${big(after)}`));
}

// Singular values of every decomposed layer relative to the largest, powers of ten, with the rank that cuts them and the one at which factors cost as much as the layer.
function spectra(layers) {
  const known = layers.filter((layer) => layer.rank !== null && layer.spectrum);
  if (!known.length) return h("p", { class: "quiet" }, "Spectra: not recorded, as nothing was decomposed here by singular values, or by an earlier version.");
  return [h("h3", {}, "Spectra"), h("p", { class: "quiet" }, "Singular values relative to the largest, in powers of ten, against their number; kept: left of the line. Dotted: from there on the factors have more MACs than the layer itself."),
    h("div", { class: "small" }, known.flatMap((layer) => layer.spectrum.map((values, k) => {
      const rank = Array.isArray(layer.rank) ? layer.rank[k] : layer.rank;
      return spectrum(`${cut(layer.name, 26)}${layer.spectrum.length > 1 ? ` (${k + 1})` : ""}`, values, rank, breakEven(layer));
    })))];
}

// The rank at which the factors have as many MACs as the layer: of one rank they are in proportion to it.
function breakEven(layer) {
  return Array.isArray(layer.rank) || !layer.macs_after ? null : (layer.rank * layer.macs_before) / layer.macs_after;
}

function spectrum(name, values, rank, even) {
  const width = 210, height = 120, full = values[values.length - 1][0];
  const known = values.map(([k, value]) => [k, Math.log10(Math.max(value, 1e-4))]);
  const low = Math.min(-1, Math.floor(Math.min(...known.map(([, y]) => y))));
  const svg = canvas(width, height, `${name}: rank ${rank} of ${full}`);
  const toX = scale([1, Math.max(2, full)], [30, width - 8]), toY = scale([low, 0], [height - 20, 20]);
  for (let power = low; power <= 0; power += 1) svg.append(
    g("line", { class: "grid", x1: 30, x2: width - 8, y1: toY(power), y2: toY(power) }),
    g("text", { class: "tick", x: 26, y: toY(power) + 4, "text-anchor": "end" }, String(power).replace("-", "−")));
  const places = known.map(([k, y]) => [toX(k), toY(y)]), edge = toX(rank + 0.5);
  const inside = places.filter(([x]) => x <= edge);
  if (inside.length) svg.append(g("path", { class: "kept", d: `${pathOf([...inside, [Math.min(edge, toX(full)), inside[inside.length - 1][1]]])}V${toY(low)}H${toX(1)}Z` }));
  svg.append(g("path", { class: "line", d: pathOf(places), stroke: DATA.colors[0] }));
  if (rank < full) svg.append(g("line", { class: "cut", x1: edge, x2: edge, y1: 18, y2: toY(low) }));
  if (even !== null && even < full) svg.append(g("line", { class: "even", x1: toX(even), x2: toX(even), y1: 18, y2: toY(low) },
    g("title", {}, `as many MACs as the layer itself: rank ${number(even, { digits: 1 })}`)));
  svg.append(g("text", { class: "tick", x: 30, y: height - 6 }, "1"),
    g("text", { class: "tick", x: width - 8, y: height - 6, "text-anchor": "end" }, full));
  return h("figure", {}, h("figcaption", {}, h("b", { dir: "auto" }, name), ` rank ${rank} of ${full}`), svg);
}
