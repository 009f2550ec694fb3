// What is shown: the overview of an experiment, a run, or two runs, as the address says behind its #.

const STATE = { marked: new Set() };

// The theme that was chosen last, where the browser lets a page keep something (files on a disk may not).
const KEPT = "lowrank-report-theme";

function keepTheme(name) {
  document.documentElement.style.colorScheme = name;
  try { localStorage.setItem(KEPT, name); } catch { /* then it lasts as long as the page */ }
}

function keptTheme() {
  try { return localStorage.getItem(KEPT); } catch { return null; }
}

function go(route) {
  location.hash = address(route);
}

function overview(k) {
  const experiment = DATA.experiments[k] || DATA.experiments[0];
  const draw = (change) => {
    const { focus, ...state } = change;
    Object.assign(STATE, state);
    const held = [scrollX, scrollY];
    show();
    scrollTo(...held);
    if (focus) document.querySelector(focus)?.focus();
  };
  return [verdictSection(experiment), frontSection(experiment, STATE, draw), tableSection(experiment, STATE, draw), notesSection(experiment)];
}

// What should I take?
function verdictSection(experiment) {
  const picks = experiment.verdict, found = picks.filter((pick) => pick.row !== null), first = found[0];
  const title = h("h1", { id: "answer" });
  if (first) title.append("Take ", h("a", { href: address({ run: first.row }), dir: "auto" }, cut(first.label, 120)), `: ${brief(first)}.`);
  else title.append(picks.length ? "No network is both cheaper than the dense one and within 1 point of it."
    : "Nothing can be recommended: no run has been measured beside its dense network.");
  const places = [...new Set(picks.map((pick) => pick.row ?? pick.text))]; // one card for all that it answers
  const cards = places.map((place) => card(picks.filter((pick) => (pick.row ?? pick.text) === place)));
  return h("section", { class: "verdict", "aria-labelledby": "answer" }, h("p", { class: "label" }, experiment.heading), title,
    cards.length ? h("div", { class: "picks" }, cards) : null, found.length ? h("p", { class: "quiet" }, experiment.chosen) : null);
}

function brief({ cost, ratio, change }) {
  const by = number(change, { digits: 2, sign: true });
  return cost === "macs" ? `${number(100 * ratio, { digits: 1 })} % of the MACs, accuracy ${by} points` : `${number(1 / ratio, { digits: 2 })} times as fast as the dense network, accuracy ${by} points`;
}

function card(picks) {
  const named = { latency_ms: "by time", macs: "by MACs" }, first = picks[0], texts = [...new Set(picks.map((pick) => pick.text.replace(/-(?=\d)/g, "−")))];
  const asked = [...new Set(picks.map((pick) => pick.points))].map((points) => `within ${points} point${points === 1 ? "" : "s"} ${
    picks.filter((pick) => pick.points === points).map((pick) => named[pick.cost]).join(" and ")}`);
  return h("div", { class: "pick" }, h("span", { class: "label" }, asked.join("; ")),
    first.row === null ? h("p", {}, first.text) : [h("p", {}, h("a", { href: address({ run: first.row }), dir: "auto" }, cut(first.label, 120)), texts.map((text) => [h("br"), text])),
      first.command ? command(first.command) : null]);
}

function notesSection(experiment) {
  const list = (title, texts, open) => texts.length ? h("details", { open }, h("summary", {}, `${title} (${texts.length})`), h("ul", { class: "told" }, texts.map((text) => h("li", { dir: "auto" }, text)))) : null;
  return section("How to read it", h("p", { class: "quiet" }, experiment.convention), list("notes", experiment.notes, experiment.notes.length < 6), list("what was published", experiment.source, false));
}

function topBar(chosen) {
  const dark = () => {
    const set = document.documentElement.style.colorScheme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const theme = h("button", { type: "button", id: "theme", onclick: () => {
    keepTheme(dark() ? "light" : "dark");
    theme.textContent = dark() ? "light" : "dark";
  } }, dark() ? "light" : "dark");
  return [h("a", { href: address({ e: chosen }), class: "home" }, "lowrank_exp"),
    DATA.experiments.length > 1 ? listed("experiment", DATA.experiments.map((one, k) => [k, cut(one.name, 60)]), chosen, (value) => go({ e: value })) : h("span", { class: "quiet", dir: "auto" }, cut(DATA.experiments[0].name, 60)),
    theme];
}

function route() {
  const asked = new URLSearchParams(location.hash.slice(1)), row = (text) => (/^\d+$/.test(text || "") && DATA.rows[text]?.jobs.length ? Number(text) : null);
  const pair = (asked.get("compare") || "").split(",").map(row);
  if (pair.length === 2 && !pair.includes(null)) return { pair, e: experimentOf(pair[0]) };
  const run = row(asked.get("run"));
  if (run !== null) return { run, seed: asked.get("seed"), e: experimentOf(run) };
  const e = Number(asked.get("e"));
  return { e: Number.isInteger(e) && DATA.experiments[e] ? e : 0 };
}

function show() {
  const { e, run, seed, pair } = route();
  RESIZED.length = 0;
  document.getElementById("top").replaceChildren(...topBar(e));
  const content = pair ? comparePage(pair, go) : run !== undefined ? runPage(run, seed, go) : overview(e);
  document.getElementById("main").replaceChildren(...content.flat().filter(Boolean));
  const title = document.querySelector("h1")?.textContent || "";
  document.title = `${cut(title, 80)} · ${cut(DATA.experiments[e].name, 60)}`;
}

addEventListener("hashchange", () => { show(); scrollTo(0, 0); document.getElementById("main").focus({ preventScroll: true }); });
addEventListener("resize", () => RESIZED.forEach((draw) => draw()));
if (["light", "dark"].includes(keptTheme())) document.documentElement.style.colorScheme = keptTheme();
show();
