// The data of the page, and how its numbers are written.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COLUMN = Object.fromEntries(DATA.columns.map((column, place) => [column.key, place]));

function pooled(place) {
  return DATA.pool[place];
}

// The mean of a row in a column; null: not measured.
function mean(row, key) {
  const cell = key in COLUMN ? row.cells[COLUMN[key]] : null;
  return Array.isArray(cell) ? cell[0] : null;
}

function spread(row, key) {
  const cell = key in COLUMN ? row.cells[COLUMN[key]] : null;
  return Array.isArray(cell) && cell.length > 1 ? cell[1] : null;
}

// A cell as text, with its spread over the seeds where there is one.
function cellText(row, column) {
  const cell = row.cells[COLUMN[column.key]];
  if (cell === null || cell === undefined) return "";
  if (!Array.isArray(cell)) return cell;
  const text = number(cell[0] * (column.factor || 1), column);
  if (cell.length < 2) return text;
  const by = number(cell[1] * (column.factor || 1), { ...column, sign: false });
  return Number(by) || column.key.startsWith("accuracy") ? `${text} ± ${by}` : text;
}

function number(value, { digits, significant, sign }) {
  const text = significant ? String(Number(value.toPrecision(significant))) : value.toFixed(digits);
  const size = text.replace("-", "");
  return (Number(text) < 0 ? "−" : sign && Number(text) > 0 ? "+" : "") + size;
}

function percent(value, digits = 2) {
  return value === null || value === undefined ? "" : `${(100 * value).toFixed(digits)} %`;
}

function points(value) {
  return number(100 * value, { digits: 2, sign: true });
}

// 40551040 -> "40.6 M"
function big(value) {
  if (value === null || value === undefined) return "";
  for (const [size, letter] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]])
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${letter}`;
  return String(Number(value.toPrecision(3)));
}

const UNITS = { macs: "", weights: "", parameters: "", bytes: "B", latency_ms: " ms", seconds: " s" };

function withUnit(value, key) {
  if (value === null || value === undefined) return "";
  if (key === "bytes") return `${big(value)}B`.replace(/(\d)B/, "$1 B");
  return key in UNITS && UNITS[key] ? `${Number(value.toPrecision(3))}${UNITS[key]}` : big(value);
}

function cut(text, longest) {
  const letters = [...text];
  return letters.length <= longest ? text : `${letters.slice(0, longest - 1).join("")}…`;
}

function rankText(rank) {
  return rank === null || rank === undefined ? "" : Array.isArray(rank) ? rank.map(rankText).join(" × ") : String(rank);
}

// The configuration of a row by dotted key: what all share and what is its own.
function configOf(row) {
  const config = row.jobs.length ? { ...DATA.shared, ...row.config } : {};
  for (const key of row.absent) delete config[key];
  return config;
}

// The layers of a job, a record each.
function layersOf(job) {
  const after = pooled(job.layers), before = pooled(job.costs);
  return before.name.map((name, k) => {
    const record = {};
    for (const [key, values] of [...Object.entries(before), ...Object.entries(after)]) record[key] = values[k];
    return record;
  });
}

// What is not well with a row, a line each.
function troubles(row) {
  return [
    ...row.failed.map((one) => `seed ${one.seed} ${one.status}: ${one.last}`),
    ...row.void,
    ...(row.missing.length
      ? [`missing${row.missing[0] === "any" ? "" : `: seed ${row.missing.join(", ")}`} (no result.json)`] : []),
  ];
}

function address(route) {
  return `#${new URLSearchParams(route)}`;
}
