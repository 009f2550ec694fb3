// The page of one run: a configuration with its seeds.

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}

function runPage(k, seed, go) {
  const row = DATA.rows[k], job = row.jobs.find((one) => String(one.seed) === String(seed)) || row.jobs[0];
  const others = DATA.rows.map((other, place) => [place, other]).filter(([place, other]) => place !== k && other.jobs.length);
  return [
    h("nav", { class: "crumbs" }, h("a", { href: address({ e: experimentOf(k) }), class: "back" }, "← all runs")),
    h("h1", { dir: "auto" }, cut(row.label, 220)),
    h("p", { class: "under" }, badge(row), [row.experiment, row.series, row.policy, [row.network, row.data].filter(Boolean).join(" on ")].filter(Boolean).map((text) => ` · ${text}`),
      row.departures.length ? ` · not as its table states: ${row.departures.join(" ")}` : ""),
    ...troubles(row).map((text) => h("p", { class: "trouble", dir: "auto" }, text)),
    h("div", { class: "controls" },
      choice("seed", row.jobs.map((one) => [one.seed, `${one.seed}${one.phases.length ? "" : ` (${one.status})`}`]), job.seed, (value) => go({ run: k, seed: value })),
      others.length ? listed("compare with", [["", "…"], ...others.map(([place, other]) => [place, cut(nameOf(other), 60)])], "",
        (value) => value !== "" && go({ compare: `${k},${value}` })) : null),
    job.last ? h("pre", { class: "trouble", dir: "auto" }, job.last) : null,
    numbers(row), phasesSection(row, job), layersSection(job), curvesSection(job), classesSection(row), repeatSection(job, row),
  ];
}

function nameOf(row) {
  return DATA.experiments.length > 1 ? `${row.experiment || "no experiment"}: ${row.label}` : row.label;
}

function experimentOf(k) {
  return DATA.experiments.findIndex((one) => one.rows.includes(k));
}

// The figures of a run, dense and now, as large numbers.
function numbers(row) {
  const tiles = [];
  const tile = (name, now, under) => now && tiles.push(h("div", { class: "tile" }, h("span", { class: "label" }, name), h("b", {}, now), h("span", { class: "quiet" }, under)));
  const found = (key) => { const column = DATA.columns[COLUMN[key]]; return column ? cellText(row, column) : ""; };
  const accuracy = found("accuracy"), dense = found("accuracy_dense"), change = mean(row, "accuracy_change");
  tile("accuracy", accuracy && `${accuracy} %`, change === null ? "" : `${points(change)} points${row.told === "no" ? " (≈ none)" : ""}, dense ${dense}`);
  for (const [key, name] of [["macs", "MACs"], ["weights", "weights"], ["bytes", "file"]]) {
    const now = mean(row, key), left = mean(row, `${key}_ratio`);
    tile(name, withUnit(now, key), left === null ? "" : `${percent(left, 1)} of the dense network`);
  }
  for (const cost of DATA.costs.filter((one) => !(one.key in SHARE))) {
    const cell = row.cells[cost.absolute], faster = cost.relative === null ? null : row.cells[cost.relative];
    if (cell) tile("time", `${Number(cell[0].toPrecision(3))} ms`, `${faster ? `${faster[0].toFixed(2)} times as fast; ` : ""}${cost.label}`);
  }
  return tiles.length ? h("div", { class: "tiles" }, tiles) : null;
}

function phasesSection(row, job) {
  const finished = row.jobs.filter((one) => one.phases.length);
  if (!job.phases.length) return section("Phases", h("p", { class: "quiet" }, "No phase has finished."));
  const names = job.phases.map((phase) => phase.name);
  const all = finished.map((one) => ({ name: `seed ${one.seed}`, color: one === job ? DATA.colors[0] : "var(--quiet)", faded: one !== job,
    values: one.phases.map((phase) => [names.indexOf(phase.name), phase.accuracy === undefined ? null : 100 * phase.accuracy]).filter(([x]) => x >= 0) }));
  all.sort((a, b) => b.faded - a.faded);
  const box = h("div", { class: "figure" });
  drawnLater(box, (width) => lines("accuracy after every phase", all, { width: Math.min(width, 720), yName: "accuracy, %",
    xTicks: names.map((_, x) => x), xText: (x) => cut(names[x], Math.max(5, Math.floor(Math.min(width, 720) / names.length / 9))) }) || "");
  const columns = [["accuracy", "accuracy", percent], ["val_accuracy", "validation", percent], ["top5", "top-5", percent], ["loss", "loss", (v) => v === undefined ? "" : v.toFixed(3)],
    ...["macs", "weights", "parameters", "bytes", "latency_ms", "seconds"].map((key) => [key, { macs: "MACs", bytes: "file", latency_ms: "time" }[key] || key, (v) => withUnit(v, key)])]
    .filter(([key]) => job.phases.some((phase) => phase[key] !== undefined));
  return section("Phases", box, h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "phases" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "phase"), columns.map(([, name]) => h("th", { scope: "col", class: "number" }, name)))),
    h("tbody", {}, job.phases.map((phase) => h("tr", {}, h("th", { scope: "row", dir: "auto" }, cut(phase.name, 60)),
      columns.map(([key, , text]) => h("td", { class: "number" }, text(phase[key]), key === "seconds" && phase.stored ? " (stored)" : ""))))))),
    figuresOf(job), job.told.length ? h("ul", { class: "told" }, job.told.map((text) => h("li", { dir: "auto" }, text))) : null);
}

// Figures that phases have of their own.
function figuresOf(job) {
  const found = job.phases.flatMap((phase) => Object.entries(phase.values || {}).filter(([, value]) => value !== null).map(([name, value]) => `${phase.name}: ${name} ${number(value, { significant: 4 })}`));
  return found.length ? h("p", { class: "quiet", dir: "auto" }, found.join(" · ")) : null;
}

// Curves over the epochs of all phases that trained, one behind the other.
function curvesSection(job) {
  if (!job.curves.length) return section("Curves", h("p", { class: "quiet" }, "No epochs were recorded: nothing was trained, or by an earlier version."));
  const joined = {}, bounds = [];
  let before = 0;
  for (const [, place] of job.curves) {
    const curve = pooled(place);
    for (const [key, values] of Object.entries(curve))
      if (key !== "epoch") (joined[key] = joined[key] || []).push(...values.map((value, k) => [before + curve.epoch[k], value]));
    before += curve.epoch[curve.epoch.length - 1];
    bounds.push(before + 0.5);
  }
  bounds.pop();
  const line = (key, name, color, dash, factor = 1) => ({ name, color: DATA.colors[color], dash, values: (joined[key] || []).map(([x, y]) => [x, y === null ? null : factor * y]) });
  const charts = [
    ["loss", [line("train_loss", "training", 0, ""), line("val_loss", "validation", 1, "5 3")], {}],
    ["accuracy, %", [line("train_accuracy", "training", 0, "", 100), line("val_accuracy", "validation", 1, "5 3", 100)], {}],
    ["learning rate", [line("learning_rate", "learning rate", 2, "")], { log: true }],
  ];
  return section("Curves", h("p", { class: "quiet" }, `Epochs of ${job.curves.map(([name]) => name).join(", then ")}.`),
    h("div", { class: "charts" }, charts.map(([name, all, more]) => {
      const known = all.filter((one) => one.values.some(([, y]) => y !== null));
      if (!known.length) return null;
      const box = h("div", { class: "figure" });
      drawnLater(box, (width) => [lines(`${name} by epoch`, known, { width, yName: name, xName: "epoch", whole: true, bounds, ...more }) || "",
        known.length > 1 ? legend(known) : ""].filter(Boolean));
      return box;
    })));
}

function repeatSection(job, row) {
  const place = pooled(job.place), seeds = row.jobs.map((one) => one.seed).join(", ");
  const pairs = [["seed", `${job.seed}${row.jobs.length > 1 ? ` (of ${seeds})` : ""}`], ["commit", place.commit], ["date", place.date], ["machine", place.machine],
    ["device", place.device], ["threads", place.threads], ["fingerprint", job.fingerprint], ["folder", job.folder],
    ["versions", Object.entries(place.versions).map(([name, version]) => `${name} ${version}`).join(", ")]].filter(([, value]) => value);
  const config = Object.entries(configOf(row));
  return section("Repeat it", job.command ? command(job.command) : h("p", { class: "quiet" }, "The command was not recorded."),
    h("dl", {}, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", { dir: "auto" }, value)])),
    config.length ? h("details", {}, h("summary", {}, `configuration (${config.length} keys)`), h("dl", { class: "config" }, config.map(([key, value]) => [h("dt", {}, key), h("dd", { dir: "auto" }, value)]))) : null);
}

function command(text) {
  return h("div", { class: "command" }, h("pre", { tabindex: 0, "aria-label": "command" }, text), copyButton(text, "command"));
}
