// What compression did to single classes: what each lost, and which confusions came or went.

function classesSection(row) {
  const found = row.classes;
  if (!found) return section("Classes", h("p", { class: "quiet" }, "Accuracies by class were not recorded for both networks."));
  const names = pooled(found.names), box = h("div", { class: "figure" });
  drawnLater(box, (width) => classBars(names, found, Math.min(width, 720)));
  return section("Classes", h("p", { class: "quiet" }, names.length < found.of ? `The ${names.length} of ${found.of} classes that lost most. ` : "",
    "Accuracy of every class, compressed minus dense network, in points."), box, confusionOf(found));
}

function classBars(names, found, width) {
  const left = Math.min(150, width * 0.35, 7 * longestOf(names) + 12), known = found.change.map((value) => (value === null ? 0 : 100 * value));
  const most = Math.max(1, ...known.map(Math.abs)), height = names.length * 22 + 24;
  const svg = canvas(width, height, "change of accuracy by class"), toX = scale([-most, most], [left + 60, width - 52]);
  svg.append(g("line", { class: "grid", x1: toX(0), x2: toX(0), y1: 0, y2: height - 18 }));
  names.forEach((name, k) => {
    const y = 22 * k + 12, x = toX(known[k]);
    svg.append(g("text", { class: "tick", x: left - 4, y: y + 4, "text-anchor": "end" }, cut(name, Math.floor(left / 7))),
      g("rect", { class: known[k] < 0 ? "loss" : "gain", x: Math.min(x, toX(0)), y: y - 7, width: Math.max(0.5, Math.abs(x - toX(0))), height: 14 }),
      g("text", { class: "tick", x: known[k] < 0 ? x - 5 : x + 5, y: y + 4, "text-anchor": known[k] < 0 ? "end" : "start" },
        found.change[k] === null ? "" : points(found.change[k])));
  });
  svg.append(g("text", { class: "tick", x: toX(0), y: height - 4, "text-anchor": "middle" }, "dense"));
  return svg;
}

function longestOf(names) {
  return Math.max(...names.map((name) => [...name].length));
}

function confusionOf(found) {
  if (!found.confusion) return h("p", { class: "quiet" }, "Confusion counts were not recorded for both networks.");
  const names = pooled(found.confused), moved = found.confusion.filter(([label, prediction]) => label !== prediction);
  const worst = moved.filter(([, , images]) => images > 0).slice(0, 8);
  const box = names.length <= 30 ? h("div", { class: "figure" }) : null;
  if (box) drawnLater(box, (width) => confusionMatrix(names, found.confusion, Math.min(width, 90 + 30 * names.length)));
  return [h("h3", {}, "Confusion, compressed minus dense network"),
    h("p", { class: "quiet" }, `Images, of ${found.images} over all seeds. ${box ? "Rows: the class it is; columns: the class it was taken for." : ""}`), box,
    worst.length ? h("ul", { class: "told" }, worst.map(([label, prediction, images]) => h("li", { dir: "auto" }, `${images} more of ${cut(names[label], 40)} taken for ${cut(names[prediction], 40)}`))) : null];
}

function confusionMatrix(names, differences, width) {
  const left = Math.min(110, width * 0.28, 7 * longestOf(names) + 12), size = (width - left - 2) / names.length;
  const top = left * 0.9, height = top + size * names.length + 4, most = Math.max(1, ...differences.map(([, , images]) => Math.abs(images)));
  const svg = canvas(width, height, "difference of the confusion matrices"), longest = Math.floor(left / 7);
  names.forEach((name, k) => svg.append(
    g("text", { class: "tick", x: left - 5, y: top + size * (k + 0.5) + 4, "text-anchor": "end" }, cut(name, longest)),
    g("text", { class: "tick", transform: `translate(${left + size * (k + 0.5) + 4},${top - 5}) rotate(-90)` }, cut(name, Math.floor(top / 7))),
    g("line", { class: "grid", x1: left, x2: width - 2, y1: top + size * k, y2: top + size * k })));
  for (const [label, prediction, images] of differences) {
    const good = (label === prediction) === images > 0, x = left + size * prediction, y = top + size * label;
    svg.append(g("rect", { class: good ? "gain" : "loss", x: x + 0.5, y: y + 0.5, width: size - 1, height: size - 1, "fill-opacity": 0.15 + (0.85 * Math.abs(images)) / most },
      g("title", {}, `${names[label]} taken for ${names[prediction]}: ${images > 0 ? "+" : ""}${images}`)));
    if (size >= 22) svg.append(g("text", { class: Math.abs(images) > 0.55 * most ? "inside strong" : "inside", x: x + size / 2, y: y + size / 2 + 4, "text-anchor": "middle" }, `${images > 0 ? "+" : "−"}${Math.abs(images)}`));
  }
  return svg;
}
