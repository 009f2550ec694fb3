// A table as text to paste elsewhere: Markdown, CSV, LaTeX. Cells are names of anybody's making, so each kind escapes.

const KINDS = {
  Markdown: (head, lines, words) => {
    const line = (cells) => `| ${cells.map(markdownEscaped).join(" | ")} |`;
    return [line(head), `|${words.map((word) => (word ? "---" : "---:")).join("|")}|`, ...lines.map(line)].join("\n");
  },
  CSV: (head, lines) => [head, ...lines].map((cells) => cells.map(csvCell).join(",")).join("\n"),
  LaTeX: (head, lines, words) => {
    const line = (cells) => `${cells.map(latexEscaped).join(" & ")} \\\\`;
    const layout = words.map((word) => (word ? "l" : "r")).join("");
    return ["% \\usepackage{booktabs}", `\\begin{tabular}{${layout}}`, "\\toprule", line(head), "\\midrule",
      ...lines.map(line), "\\bottomrule", "\\end{tabular}"].join("\n");
  },
};

function markdownEscaped(text) {
  return text.replace(/[\\`*_~|[\]$#]/g, "\\$&").replace(/&/g, "&amp;").replace(/</g, "&lt;")
    .replace(/:\/\//g, "\\://").replace(/\s+/g, " ");
}

// A spreadsheet takes a cell that begins with one of these for a formula, unless a mark says that it is text.
function csvCell(text) {
  const plain = text.replace(/−/g, "-");
  const formula = /^'*[=+\-@\t\r＝＋－＠]/.test(plain) && !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?( ± [\d.]+)?$/i.test(plain);
  return `"${(formula ? `'${plain}` : plain).replace(/"/g, '""')}"`;
}

const LATEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
  ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "−": "$-$", "≈": "$\\approx$", "×": "$\\times$", "[": "{[}",
  "]": "{]}", "*": "{*}",
};

function latexEscaped(text) {
  return text.replace(/[\\~^<>|±−≈×[\]*]|[&%$#_{}]/g, (one) => LATEX[one] || `\\${one}`);
}
