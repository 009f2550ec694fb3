// The table of all rows: sorted, filtered, with the columns that are chosen, and as text to paste elsewhere.

const FIRST = { key: "name", head: "configuration", text: true }, LAST = { key: "status", head: "status", text: true };
const SEEDS = { key: "n", head: "n" };

function tableSection(experiment, state, redraw) {
  const rows = experiment.rows.map((k) => ({ k, row: DATA.rows[k] }));
  const known = DATA.columns.filter((column) => rows.some(({ row }) => row.cells[COLUMN[column.key]] !== null));
  const chosen = known.filter((column) => (state.columns || defaults()).includes(column.key));
  const columns = [FIRST, SEEDS, ...chosen, LAST];
  const body = h("tbody"), count = h("span", { class: "quiet count" }), marked = state.marked;
  const compare = h("button", { type: "button", class: "compare", disabled: true,
    onclick: () => { location.hash = address({ compare: [...marked].join(",") }); } }, "Compare two");
  const matching = () => sorted(rows.filter(({ row }) => matches(row, state.filter || "")), state, known);
  const fill = () => {
    const found = matching();
    body.replaceChildren(...found.map((one) => line(one, columns, marked, mark)));
    count.textContent = found.length === rows.length ? `${rows.length} rows` : `${found.length} of ${rows.length} rows`;
  };
  const mark = () => {
    compare.disabled = marked.size !== 2;
    compare.textContent = marked.size === 2 ? "Compare these two" : "Compare two: mark them";
  };
  const filter = h("input", { type: "search", value: state.filter || "", placeholder: "words of a name, method, status …",
    oninput: (event) => { state.filter = event.target.value; fill(); } });
  fill();
  mark();
  return h("section", { id: "table", "aria-labelledby": "table-title" }, h("h2", { id: "table-title" }, "All runs"),
    h("div", { class: "controls" }, h("label", { class: "listed" }, h("span", { class: "label" }, "filter"), filter), count,
      columnsChooser(known, chosen, (keys) => redraw({ columns: keys })), compare),
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "table of all runs" },
      h("table", { class: "runs" }, h("thead", {}, h("tr", {}, h("th", { class: "box" }, h("span", { class: "unseen" }, "marked")),
        columns.map((column) => header(column, state, redraw)))), body)),
    h("div", { class: "controls" }, h("span", { class: "label" }, "copy as"), Object.keys(KINDS).map((kind) =>
      h("button", { type: "button", class: "copy", onclick: () => copy(asText(kind, matching(), columns), `table as ${kind}`) }, kind))));
}

function defaults() {
  return DATA.columns.filter((column) => column.shown).map((column) => column.key);
}

function columnsChooser(known, chosen, choose) {
  const keys = new Set(chosen.map((column) => column.key));
  return h("details", { class: "chooser" }, h("summary", {}, "columns"), h("fieldset", {}, h("legend", { class: "unseen" }, "columns"),
    known.map((column) => h("label", {}, h("input", { type: "checkbox", checked: keys.has(column.key), onchange: (event) => {
      if (event.target.checked) keys.add(column.key); else keys.delete(column.key);
      choose([...keys]);
    } }), h("span", {}, heading(column))))));
}

function heading(column) {
  return column.way ? `${column.head} (${column.way})` : column.head;
}

function header(column, state, redraw) {
  const mine = state.sort === column.key, order = mine ? (state.down ? "descending" : "ascending") : "none";
  return h("th", { scope: "col", "aria-sort": order, class: column.text ? null : "number" },
    h("button", { type: "button", title: heading(column), "data-sort": column.key, onclick: () =>
      redraw({ sort: column.key, down: mine ? !state.down : !column.text, focus: `[data-sort="${column.key}"]` }) },
    cut(column.head, 40), mine ? (state.down ? " ↓" : " ↑") : ""));
}

function matches(row, text) {
  const all = [row.label, row.series, row.policy, row.network, row.data, row.status, row.control, ...row.departures,
    ...troubles(row), ...Object.values(row.config)].join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

function sorted(rows, { sort, down }, known) {
  const column = [FIRST, SEEDS, LAST, ...known].find((one) => one.key === sort);
  if (!column) return rows;
  const value = ({ row }) => column === FIRST ? row.label : column === LAST ? row.status : column === SEEDS ? row.n
    : column.text ? row.cells[COLUMN[column.key]] : mean(row, column.key);
  const way = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [one, other] = [value(a), value(b)];
    if (one === null || other === null) return (one === null) - (other === null); // what was not measured stands last
    return way * (column.text ? one.localeCompare(other, "en", { numeric: true }) : one - other);
  });
}

function line({ k, row }, columns, marked, mark) {
  const box = h("input", { type: "checkbox", checked: marked.has(k), "aria-label": `mark ${cut(row.label, 100)}`, onchange: (event) => {
    if (event.target.checked) marked.add(k); else marked.delete(k);
    mark();
  } });
  const found = h("tr", { "data-row": k, class: row.n ? null : "absent" }, h("td", { class: "box" }, row.jobs.length ? box : null),
    columns.map((column) => h("td", { class: column.text ? column.key === "name" ? "name" : null : "number" }, cell(row, k, column))));
  link(found, k);
  return found;
}

// Whether all that has run is otherwise than stated in the same way, which the heading says once.
function alikeDeparted() {
  return new Set(DATA.rows.filter((row) => row.jobs.length).map((row) => row.departures.join(" "))).size < 2;
}

function cell(row, k, column) {
  if (column === FIRST) return [
    row.jobs.length ? h("a", { href: address({ run: k }), title: row.label, dir: "auto" }, cut(row.label, 120)) : h("span", { dir: "auto" }, cut(row.label, 120)),
    row.departures.length && !alikeDeparted() ? h("div", { class: "quiet" }, `not as stated: ${row.departures.join(" ")}`) : null,
    ...troubles(row).map((text) => h("div", { class: "trouble", dir: "auto" }, cut(text, 400)))];
  if (column === SEEDS) return row.n;
  if (column === LAST) return badge(row);
  const text = cellText(row, column);
  return column.key === "accuracy_change" && row.told === "no" ? `${text} ≈` : text;
}

function badge(row) {
  const warned = row.jobs.some((job) => job.told.length);
  const mark = { ok: "✓", missed: "!", missing: "…", failed: "✗", interrupted: "✗" }[row.status] || "·";
  return h("span", { class: `badge ${row.status}` }, `${mark} ${row.status}${warned ? " (!)" : ""}`);
}

function asText(kind, rows, columns) {
  const lines = rows.map(({ row }) => columns.map((column) =>
    column === FIRST ? row.label : column === SEEDS ? String(row.n) : column === LAST
      ? [row.status, ...troubles(row)].join("; ") : cellText(row, column)));
  return KINDS[kind](columns.map(heading), lines, columns.map((column) => Boolean(column.text)));
}
