"""Tables as text: Markdown, LaTeX (booktabs), and the cells of every printed table; CSV is the raw frame."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lowrank_exp.report.distinguish import CHANGE, EXPLAINED, MARK, UNTESTED, numbers, testable
from lowrank_exp.report.escapes import latex_escaped, markdown_escaped, markdown_item
from lowrank_exp.report.layers import EXPLAINED as EXPLAINED_LAYERS
from lowrank_exp.report.quantities import SHOWN, VALUES, Quantity
from lowrank_exp.report.searches import FRONT

CONVENTION = (
    "Accuracy in percent, mean ± standard deviation (ddof 1) over n seeds; change against the dense network "
    "in points. MACs: 1 multiply-accumulate = 1, convolutions and linear layers only, one image. Weights: "
    "entries of convolution and linear weights. Parameters: everything trainable. Ratios: what remains of "
    "the dense network."
)
BY_CLASS = (
    "By class: of the test images of a class, how many were recognised (its recall), in percent after each phase; "
    "change from the dense to the compressed network in points."
)
SPREAD = ("accuracy_dense", "accuracy", "accuracy_change", "top5", "latency_ms")  # always shown with ±
WARNED = "(!)"  # beside the status of a row with warnings
WHERE_KNOWN = ("latency_ms_speedup",)  # left out where no row has it
TIMED_BY = "timed by"
DEPARTS = "not as stated"  # a column of what is otherwise than its table states, where any row has run so
VALIDATION = Quantity("validation %", 100, ".2f")  # what decides a search; shown where there was one
MARKED = "yes"  # a row on its front
NUMBER = "no."  # of a row in its table
APART = "Rows were timed in different ways, as listed: compare latencies of one way only."
FIGURE = Quantity("value", 1, ".4g")  # of a phase's own
ORIGIN = ("hash", "seeds", "commit", "date", "machine", "device", "threads", "timed_by")


@dataclass(frozen=True)
class Section:
    """One experiment: its rows of `table`, its comparison with papers (or None), and the lines below.

    `classes`: tables of accuracy by class, a title and lines of `class_table` each; `layers`: of
    what layers lost, as text.
    """

    title: str
    frame: pd.DataFrame
    comparison: pd.DataFrame | None
    source: Sequence[str]
    conditions: str
    notes: Sequence[str]
    classes: Sequence[tuple[str, pd.DataFrame]] = ()
    layers: Sequence[tuple[str, pd.DataFrame]] = ()

    @property
    def convention(self) -> str:
        """The convention of every number in the section, what is told apart, and the conditions of its latency."""
        return f"{CONVENTION} {EXPLAINED if testable(self.frame) else UNTESTED} {self.conditions}"


def formatted(frame: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows of `table` as text: configuration, n, the quantities `names` in their shown units, status.

    By default all quantities, and the accuracy after every phase between the dense network and the last one. A change
    that is not told from none is marked; several rows have numbers, by which each names those that it is not told from.
    Where latencies were measured in different ways, each row tells its own.
    """
    columns = {"configuration": _names(frame), "n": frame["n"].astype(str)}
    several = len(frame) > 1 and testable(frame)
    if several or (frame["control"] != "").any():
        columns = {NUMBER: pd.Series(range(1, len(frame) + 1), frame.index).astype(str), **columns}

    def add(name: str, quantity: Quantity, kind: str) -> None:
        pairs = zip(frame[f"{name}_mean"], frame[f"{name}_std"], strict=True)
        columns[quantity.header] = [cell(mean, std, quantity, kind) for mean, std in pairs]
        if name == "accuracy_change":
            told = zip(columns[quantity.header], frame[CHANGE], strict=True)
            columns[quantity.header] = [f"{cell} {MARK}" if answer == "no" else cell for cell, answer in told]
            if several:
                columns[MARK] = numbers(frame)

    for name in names or SHOWN:
        if f"{name}_mean" in frame and (name not in WHERE_KNOWN or frame[f"{name}_mean"].notna().any()):
            add(name, SHOWN[name], name)
        if name == "accuracy_dense" and names is None:
            for phase in _between(frame):
                add(f"accuracy.{phase}", Quantity(f"{phase} %", 100, ".2f"), "accuracy")
    if timed_in_different_ways(frame):
        columns[TIMED_BY] = frame["timed_by"]
    if FRONT in frame and (frame[FRONT] != "").any():
        add("val_accuracy", VALIDATION, "accuracy")
        columns[FRONT] = [MARKED if objectives else "" for objectives in frame[FRONT]]
    if (frame["departures"] != "").any():
        columns[DEPARTS] = frame["departures"]
    return pd.DataFrame(columns | {"status": _status(frame)})


def _names(frame: pd.DataFrame) -> list[str]:
    """What rows are called: controls by the number of their row, and by what they are."""
    number = {label: str(place) for place, label in enumerate(frame["configuration"], start=1)}
    rows = zip(frame["configuration"], frame["control"], frame["controls"], strict=True)
    return [
        f"control of {number[controls]}: {control}" if control and controls in number else str(label)
        for label, control, controls in rows
    ]


def timed_in_different_ways(frame: pd.DataFrame) -> bool:
    """Whether rows of `table` have latencies that are not alike: of other runtimes, threads or batch sizes."""
    return len(set(frame.loc[frame["timed_by"] != "", "timed_by"])) > 1


def _status(frame: pd.DataFrame) -> pd.Series:
    """The status of every row, or how many of its seeds have finished; with a mark where a phase has a warning."""
    texts = []
    for row in frame.itertuples():
        absent = [len(str(seeds).split()) for seeds in (row.failed_seeds, row.missing_seeds)]
        finished = f"{row.n} of {row.n + sum(absent)} seeds" if row.n and any(absent) else ""
        known = [] if finished and row.status == "missing" else [row.status]
        texts.append(", ".join([*known, *filter(None, [finished])]) + (f" {WARNED}" if row.warnings else ""))
    return pd.Series(texts, frame.index)


def _between(frame: pd.DataFrame) -> list[str]:
    """The phases whose accuracy is in `frame`, without those after which the network is dense, and the last one."""
    phases = [re.fullmatch(r"accuracy\.(.+)_mean", str(name)) for name in frame.columns]
    dense = {name for cell in frame["dense_after"] for name in str(cell).split("; ")}
    return [match[1] for match in phases if match and match[1] not in dense][:-1]


def figures_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The figures that single phases have of their own, one per line; none: an empty frame."""
    names = [re.fullmatch(rf"({VALUES}\.(\w+)\.(.+))_mean", str(name)) for name in frame.columns]
    lines = [
        {"configuration": str(row["configuration"]), "phase": match[3], "figure": match[2], "value": value}
        for _, row in frame.iterrows()
        for match in names
        if match and (value := cell(row[match[0]], row[f"{match[1]}_std"], FIGURE, ""))
    ]
    return pd.DataFrame(lines)


def class_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines of `class_table` as text: the class, its accuracy after every phase, and the change."""
    columns = {"class": frame.index.astype(str)}
    for name in (str(name).removesuffix("_mean") for name in frame.columns if str(name).endswith("_mean")):
        phase = name.removeprefix("accuracy.")
        quantity = SHOWN.get(name) or Quantity(f"{phase} %", 100, ".2f")
        pairs = zip(frame[f"{name}_mean"], frame[f"{name}_std"], strict=True)
        columns[quantity.header] = [cell(mean, std, quantity, "accuracy") for mean, std in pairs]
    return pd.DataFrame(columns)


def comparison_text(comparison: pd.DataFrame) -> pd.DataFrame:
    """Lines of `compared` as text, the paper's value, ours and the difference side by side."""
    lines = [
        {
            "configuration": line.configuration,
            "column": line.column,
            "unit": line.unit,
            "paper": f"{line.paper:g}",
            "ours": cell(line.ours, line.std, Quantity("", 1, ".2f"), "accuracy") or "missing",
            "difference": f"not compared: {line.departures}" if line.departures else _signed(line.difference),
        }
        for line in comparison.itertuples()
    ]
    return pd.DataFrame(lines)


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.2f}"


def origin(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each row was measured: hash, seeds, commit, date, machine, device, threads and what timed it."""
    shown = frame.loc[frame["hash"] != "", ["configuration", *ORIGIN]].copy()
    shown["commit"] = [" ".join(dict.fromkeys(c[:8] for c in str(cell).split())) for cell in shown["commit"]]
    shown["date"] = [_dates(str(cell)) for cell in shown["date"]]
    return shown.astype(str)


def markdown(sections: Sequence[Section]) -> str:
    """All sections as GitHub Markdown."""
    parts = []
    for section in sections:
        title = markdown_escaped(section.title)
        parts += [f"## {title}", _pipes(formatted(section.frame)), markdown_escaped(section.convention)]
        if section.comparison is not None and len(section.comparison):
            parts += [f"### {title}: beside the published values"]
            parts += [_pipes(comparison_text(section.comparison))]
            parts += ["\n".join(f"- {line}" for line in section.source)]
        if len(figures := figures_text(section.frame)):
            parts += [f"### {title}: figures of single phases", _pipes(figures)]
        for of, frame in section.classes:
            parts += [f"### {title}: {markdown_escaped(of)}", _pipes(class_text(frame))]
        if section.classes:
            parts.append(BY_CLASS)
        for of, text in section.layers:
            parts += [f"### {title}: {markdown_escaped(of)}", _pipes(text)]
        if section.layers:
            parts.append(EXPLAINED_LAYERS)
        if len(origin(section.frame)):
            parts += [f"### {title}: where it was measured", _pipes(origin(section.frame))]
        if section.notes:
            parts.append("\n".join(map(markdown_item, section.notes)))
    return "\n\n".join(parts) + "\n"


def latex(sections: Sequence[Section]) -> str:
    """All sections as LaTeX tables; needs the package booktabs."""
    parts = ["% \\usepackage{booktabs}"]
    for section in sections:
        parts.append(_tabular(formatted(section.frame), f"{section.title}. {section.convention}"))
        if section.comparison is not None and len(section.comparison):
            caption = f"{section.title}, beside the published values. {'; '.join(section.source)}."
            parts.append(_tabular(comparison_text(section.comparison), caption))
        if len(figures := figures_text(section.frame)):
            parts.append(_tabular(figures, f"{section.title}, figures of single phases."))
        for title, frame in section.classes:
            parts.append(_tabular(class_text(frame), f"{section.title}, {title}. {BY_CLASS}", last="r"))
        for title, text in section.layers:
            parts.append(_tabular(text, f"{section.title}, {title}. {EXPLAINED_LAYERS}", last="r"))
        if len(origin(section.frame)):
            parts.append(_tabular(origin(section.frame), f"{section.title}, where it was measured."))
        warned = [note for note in section.notes if note.startswith(("missed", "warning"))]
        if warned:
            parts += [r"\begin{itemize}", *(rf"\item {latex_escaped(note)}" for note in warned), r"\end{itemize}"]
        others = (note for note in section.notes if note not in warned)
        parts += [f"% {line}" for note in others for line in note.splitlines()]
    return "\n".join(parts) + "\n"


def latency_conditions(frame: pd.DataFrame) -> str:
    """The sentence on latency: what rows were timed by, and device and threads of their jobs, if they share them."""
    if timed_in_different_ways(frame):
        timed = APART
    else:
        ways = [way for way in frame["timed_by"] if way]
        timed = f"Timed by {ways[0]}." if ways else "None was measured."
    places = {tuple(pair) for pair in frame.loc[frame["n"] > 0, ["device", "threads"]].to_numpy()}
    where = "device and threads as listed by row"
    if len(places) == 1:
        device, threads = places.pop()
        where = f"device {device or 'not recorded'}, threads {threads or 'not recorded'}"
    return f"Latency: median ms of one forward pass. {timed} Jobs: {where}."


def cell(mean: float, std: float, shown: Quantity, name: str) -> str:
    """A mean with its standard deviation where that is known and worth it; empty where there is none."""
    if math.isnan(mean):
        return ""
    text = f"{mean * shown.factor:{shown.form}}"
    spread = "" if math.isnan(std) else f"{std * shown.factor:{shown.form.lstrip('+')}}"
    return f"{text} ± {spread}" if spread and (name in SPREAD or float(spread) > 0) else text


def _dates(cell: str) -> str:
    days = sorted(date[:10] for date in cell.split() if date[:1].isdigit() and "-" in date)
    return cell if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _pipes(text: pd.DataFrame) -> str:
    escaped = text.map(lambda cell: markdown_escaped(str(cell))).rename(columns=markdown_escaped)
    return escaped.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def _tabular(text: pd.DataFrame, caption: str, last: str = "l") -> str:
    escaped = text.map(lambda cell: latex_escaped(str(cell))).rename(columns=latex_escaped)
    first = "rl" if text.columns[0] == NUMBER else "l"
    layout = first + "r" * (len(text.columns) - len(first) - 1) + last
    return escaped.style.hide(axis="index").to_latex(
        hrules=True,
        caption=latex_escaped(caption),
        position="t",
        position_float="centering",
        column_format=layout,
    )
