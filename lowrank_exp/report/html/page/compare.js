// Two runs side by side: figures, what differs in their configurations, and their plans layer by layer.

function comparePage(places, go) {
  const pair = places.map((k) => DATA.rows[k]), all = DATA.rows.map((row, k) => [k, row]).filter(([, row]) => row.jobs.length);
  const chooser = (which) => listed(which ? "B" : "A", all.map(([k, row]) => [k, cut(nameOf(row), 60)]), places[which],
    (value) => go({ compare: (which ? [places[0], value] : [value, places[1]]).join(",") }));
  return [h("nav", { class: "crumbs" }, h("a", { href: address({ e: experimentOf(places[0]) }), class: "back" }, "← all runs")),
    h("h1", {}, "Two runs side by side"), h("div", { class: "controls" }, chooser(0), chooser(1),
      h("button", { type: "button", onclick: () => go({ compare: [places[1], places[0]].join(",") }) }, "swap")),
    section("Figures", figures(pair, places)), section("Configuration", differing(pair)), section("Layers", sideBySide(pair))];
}

function figures(pair, places) {
  const columns = DATA.columns.filter((column) => !column.text && pair.some((row) => row.cells[COLUMN[column.key]]));
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "figures" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, ""),
    pair.map((row, which) => h("th", { scope: "col", class: "number" }, `${which ? "B" : "A"}: `, h("a", { href: address({ run: places[which] }), dir: "auto" }, cut(row.label, 50)))), h("th", { scope: "col", class: "number" }, "B − A"))),
    h("tbody", {}, columns.map((column) => {
      const [one, other] = pair.map((row) => mean(row, column.key));
      const by = one === null || other === null ? "" : number((other - one) * (column.factor || 1), { ...column, sign: true });
      return h("tr", {}, h("th", { scope: "row" }, heading(column)), pair.map((row) => h("td", { class: "number" }, cellText(row, column))), h("td", { class: "number" }, by));
    }))));
}

function differing(pair) {
  const [one, other] = pair.map(configOf), keys = [...new Set([...Object.keys(one), ...Object.keys(other)])].filter((key) => one[key] !== other[key]);
  if (!keys.length) return h("p", { class: "quiet" }, "Their configurations are the same but for seeds.");
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "configuration" }, h("table", { class: "differing" },
    h("thead", {}, h("tr", {}, h("th", {}, "key"), h("th", {}, "A"), h("th", {}, "B"))),
    h("tbody", {}, keys.map((key) => h("tr", {}, h("th", { scope: "row" }, key), [one, other].map((config) =>
      h("td", { dir: "auto" }, key in config ? cut(config[key], 200) : h("span", { class: "quiet" }, "unset"))))))));
}

function sideBySide(pair) {
  const jobs = pair.map((row) => row.jobs.find((job) => job.phases.length)).map((job) => (job ? layersOf(job) : []));
  const names = [...new Set(jobs.flat().map((layer) => layer.name))];
  if (!names.length) return h("p", { class: "quiet" }, "No layers were recorded.");
  const most = Math.max(1, ...jobs.flat().map((layer) => Math.max(layer.macs_before || 0, layer.macs_after || 0)));
  const side = (layer) => layer ? [h("td", {}, bar(layer.macs_before, layer.macs_after, most)), h("td", { class: "number" }, left(layer)),
    h("td", { class: "number" }, rankOf(layer)), h("td", {}, layer.decomposition || h("span", { class: "quiet" }, layer.reason || "dense"))]
    : [h("td", { colspan: 4, class: "quiet" }, "not in this network")];
  let same = 0;
  const lines = names.map((name) => {
    const [one, other] = jobs.map((layers) => layers.find((layer) => layer.name === name));
    const alike = one && other && rankText(one.rank) === rankText(other.rank) && one.decomposition === other.decomposition && one.macs_after === other.macs_after;
    same += alike ? 1 : 0;
    return h("tr", { class: alike ? "alike" : null }, h("th", { scope: "row", dir: "auto" }, cut(name, 60)), side(one), side(other));
  });
  const head = ["MACs", "remain", "rank", "decomposition"];
  return [h("p", { class: "quiet" }, `${names.length === same ? "No layer differs" : `${names.length - same} of ${names.length} layers differ`}; of each run its first finished seed.`),
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "layers" }, h("table", { class: "layers" },
      h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { colspan: 4 }, "A"), h("th", { colspan: 4 }, "B")),
        h("tr", {}, h("th", {}, "layer"), [0, 1].map(() => head.map((text) => h("th", {}, text))))), h("tbody", {}, lines)))];
}
