"""The trade-off figure: accuracy against the MACs that remain, a curve per method and policy."""

import io
import warnings

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowrank_exp.report.expected import same_row
from lowrank_exp.report.published import Published
from lowrank_exp.report.quantities import derived
from lowrank_exp.text.plain_text import shortened

# Okabe and Ito (2008): colours that colour-blind readers tell apart; black is the dense network.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
NAMED_ROWS = 14
LONGEST = 60  # characters of a name
DENSE, DENSE_PUBLISHED, PUBLISHED = "dense", "dense, published", "published"
WARNED = "with warnings"


def tradeoff(frame: pd.DataFrame, paper: Published | None = None, title: str = "") -> Figure | None:
    """Draw `frame` (rows of `table`, one experiment); hollow markers are the paper's. None without a point.

    Accuracy in percent; error bars are one standard deviation over seeds; the star is the dense network;
    points with warnings are ringed.
    """
    points = frame.dropna(subset=["accuracy_mean", "macs_ratio_mean"])
    if points.empty:
        return None
    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    names = points["series"].fillna("").drop_duplicates().tolist()
    for number, (name, label) in enumerate(zip(names, _short(names), strict=True)):
        group = points[points["series"].fillna("") == name].sort_values("macs_ratio_mean")
        axes.errorbar(
            group["macs_ratio_mean"],
            100 * group["accuracy_mean"],
            xerr=_bars(group["macs_ratio_std"]),
            yerr=_bars(100 * group["accuracy_std"]),
            label=shortened(label, LONGEST),
            zorder=3,
            **_style(number),
        )
    _warned(axes, points)
    if paper:
        _published(axes, paper, points, names)
    _dense(axes, points, paper)
    _name_rows(axes, points)
    axes.set_xlabel("MACs that remain, fraction of the dense network")
    axes.set_ylabel("accuracy, %")
    axes.set_title(shortened(title, LONGEST), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.14)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: labels[k] in (WARNED, PUBLISHED, DENSE, DENSE_PUBLISHED))
    # Matplotlib leaves out what begins with an underscore.
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    legend = axes.legend([handles[k] for k in order], [labels[k] for k in order], fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a `png` or `pdf` file, without a date: equal results give equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a character that the font lacks is drawn as a box; tables have it
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(buffer, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return buffer.getvalue()


def _warned(axes: Axes, points: pd.DataFrame) -> None:
    """A red ring around every point whose jobs have warnings."""
    marked = points[points["warnings"] != ""]
    if len(marked):
        ring = {"ls": "", "marker": "o", "ms": 13, "mfc": "none", "mec": "#D00000", "mew": 1.4, "zorder": 4}
        axes.plot(marked["macs_ratio_mean"], 100 * marked["accuracy_mean"], label=WARNED, **ring)


def _published(axes: Axes, paper: Published, points: pd.DataFrame, names: list[str]) -> None:
    """Hollow markers for the paper's rows, tied to ours by a thin line; grey where we have no result."""
    for row in paper.rows:
        known = derived(paper.of_row(row))
        if not {"accuracy", "macs_ratio"} <= known.keys():
            continue
        x, y = known["macs_ratio"], 100 * known["accuracy"]
        rows = zip(points["row"], points["control"], strict=True)
        ours = points[[same_row(name, row) and not control for name, control in rows]]
        style = {"color": "#7F7F7F", "marker": "o"}
        for _, point in ours.iterrows():
            style = {key: _style(names.index(point["series"]))[key] for key in style}
            tie = [x, point["macs_ratio_mean"]], [y, 100 * point["accuracy_mean"]]
            axes.plot(*tie, ":", color=style["color"], lw=0.9, zorder=2)
        axes.plot([x], [y], ls="", ms=8, mfc="white", mew=1.4, zorder=2, **style)
        if ours.empty:
            _write(axes, row, x, y)
    if any(line.get_markerfacecolor() == "white" for line in axes.lines):
        axes.plot([], [], ls="", marker="o", ms=7, mfc="white", color="#444444", label=PUBLISHED)


def _dense(axes: Axes, points: pd.DataFrame, paper: Published | None) -> None:
    """A star at ratio 1 for every distinct dense accuracy, ours filled and the paper's hollow."""
    ours = (100 * points["accuracy_dense_mean"].dropna().round(6)).drop_duplicates()
    printed = set()
    if paper is not None:
        printed = {100 * paper.of_row(name)["accuracy_dense"] for name in paper.rows if _base(paper, name)}
    star = {"marker": "*", "color": "black", "ls": "", "ms": 12, "zorder": 5}
    if printed:
        axes.plot([1] * len(printed), sorted(printed), mfc="white", mew=1.0, label=DENSE_PUBLISHED, **star)
    if len(ours):
        axes.plot([1] * len(ours), ours, mec="white", mew=0.6, label=DENSE, **star)
    if len(ours) == 1:
        axes.axhline(ours.iloc[0], color="black", lw=0.8, ls="--", alpha=0.5, zorder=1)


def _base(paper: Published, row: str) -> bool:
    return "accuracy_dense" in paper.of_row(row)


def _name_rows(axes: Axes, points: pd.DataFrame) -> None:
    """Write the names of rows beside their points, unless so many would cover each other."""
    named = points[points["row"].notna()]
    if len(named) <= NAMED_ROWS:
        for _, row in named.iterrows():
            _write(axes, row["configuration"], row["macs_ratio_mean"], 100 * row["accuracy_mean"])


def _write(axes: Axes, text: str, x: float, y: float) -> None:
    style = {"fontsize": 7.5, "color": "#444444", "zorder": 6}
    axes.annotate(
        shortened(text, LONGEST), (x, y), parse_math=False, xytext=(8, -3), textcoords="offset points", **style
    )


def _short(names: list[str]) -> list[str]:
    """Names of series without the parts that all of them share; a single one keeps everything."""
    parts = [name.split(", ") for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    left = [", ".join(part for part in split if part not in shared) for split in parts]
    return [label or name for label, name in zip(left, names, strict=True)]


def _style(number: int) -> dict:
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6,
        "linewidth": 1.3,
        "capsize": 3,
        "elinewidth": 1.0,
    }


def _bars(std: pd.Series) -> pd.Series | None:
    """Half lengths of error bars; none where there is one seed or no spread at all."""
    return std.fillna(0) if (std > 1e-9).any() else None
