"""The figure of an experiment: accuracy against the MACs that remain, or bars where all rows keep as many."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowrank_exp.report.bars import bars, cost_alike
from lowrank_exp.report.expected import same_row
from lowrank_exp.report.front import on_front
from lowrank_exp.report.palette import (
    ACCURACY,
    COLORS,
    DENSE,
    DENSE_PUBLISHED,
    DPI,
    LONGEST,
    MARKERS,
    PUBLISHED,
    RED,
    WARNED,
    WIDTH,
    explain,
    half_lengths,
    heading,
    series_of,
    written,
)
from lowrank_exp.report.placing import place
from lowrank_exp.report.published import Published
from lowrank_exp.report.quantities import derived
from lowrank_exp.report.searches import FRONT
from lowrank_exp.text.plain_text import shortened

FOUND = "front of the search, by validation accuracy"
MANY = 8  # names, of which some may find no room
CROWDED = 60  # names, of which nobody finds his own
MACS = "MACs that remain, fraction of the dense network"


@dataclass(frozen=True)
class Curve:
    """Points that differ in their budget alone; its look, which series and variant share with other curves."""

    series: str
    variant: str
    points: pd.DataFrame
    color: str
    marker: str


def drawing(frame: pd.DataFrame, paper: Published | None = None, title: str = "") -> Figure | None:
    """Draw `frame` (rows of `table`, one experiment) as a trade-off or as bars; None without a point."""
    points = frame.dropna(subset=["accuracy_mean", "macs_ratio_mean"])
    if points.empty:
        return None
    with without_glyph_warnings():  # where names are measured
        return bars(points, paper, title) if cost_alike(points) else tradeoff(points, paper, title)


def tradeoff(points: pd.DataFrame, paper: Published | None = None, title: str = "") -> Figure:
    """Accuracy in percent against MACs, a colour per series (method and decomposition) and a curve per row without its
    budget; hollow markers are the paper's.

    Error bars are one standard deviation over seeds; the star is the dense network; points with warnings are ringed.
    Names of rows stand beside points where colour and marker do not say what they are.
    """
    curves, telling = _curves(points)
    figure = Figure(figsize=(WIDTH, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        mine = curve.points
        axes.errorbar(
            mine["macs_ratio_mean"],
            100 * mine["accuracy_mean"],
            xerr=half_lengths(mine["macs_ratio_std"]),
            yerr=half_lengths(100 * mine["accuracy_std"]),
            zorder=3,
            capsize=3,
            elinewidth=1.0,
            **_style(curve),
        )
    _explain(axes, curves, telling)
    _front(axes, points)
    _warned(axes, points)
    unseen = [] if paper is None else _published(axes, paper, curves)
    _dense(axes, points, paper)
    names = [*([] if telling else _names(curves)), *unseen]
    axes.set_xlabel(f"{MACS}\n " if len(names) > MANY else MACS)  # room for a line
    axes.set_ylabel(ACCURACY)
    axes.set_title(heading(title, points), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.14)
    explain(figure, axes, curves[0].series if telling == "variant" else None)
    tried = _legible(names)
    if left_out := len(names) - len(tried) + len(place(figure, axes, tried)):
        axes.set_xlabel(f"{MACS}\n(names for which there is no room, see the table: {left_out})")
    return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a `png` or `pdf` file, without a date: equal results give equal bytes."""
    buffer = io.BytesIO()
    with without_glyph_warnings():
        figure.savefig(buffer, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return buffer.getvalue()


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Within the block nothing is said of what the font lacks: it is drawn as boxes, and tables have it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


def _curves(points: pd.DataFrame) -> tuple[list[Curve], str]:
    """The curves, and what tells them apart besides names at points: the `variant` of a single series, `both`, or "".

    Variants have colours where there is one series, and markers of their own where several series share them.
    """
    keys = list(zip(series_of(points), points["variant"], strict=True))
    series, variants = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    groups = {key: points[[one == key for one in keys]].sort_values("macs_ratio_mean") for key in dict.fromkeys(keys)}
    telling = ""
    if 1 < len(variants) < len(groups) and len(variants) <= len(MARKERS):
        telling = "both"
    elif len(series) == 1 < len(variants) <= len(COLORS):
        named = points["row"].notna().all() and max(map(len, groups.values())) == 1
        telling = "" if named else "variant"
    curves = []
    for (one, variant), mine in groups.items():
        color = variants.index(variant) if telling == "variant" else series.index(one)
        marker = variants.index(variant) if telling else color
        curves.append(Curve(one, variant, mine, COLORS[color % len(COLORS)], MARKERS[marker % len(MARKERS)]))
    return curves, telling


def _names(curves: Sequence[Curve]) -> list[tuple[str, float, float]]:
    """What stands beside points: the row of a curve once, at its right end, or the names of its points."""
    names = []
    for curve in curves:
        mine = curve.points[curve.points["row"].notna() | (curve.points["variant"] != "")]
        one_row = len(mine) > 1 and mine["row"].nunique() == 1
        for _, point in (mine.tail(1) if one_row else mine).iterrows():
            text = point["row"] if one_row else point["configuration"]
            names.append((shortened(text, LONGEST), point["macs_ratio_mean"], 100 * point["accuracy_mean"]))
    return names


def _legible(names: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """All names, or where these are too many to be read, those on the front."""
    if len(names) <= CROWDED:
        return names
    fronts = on_front([x for _, x, _ in names], [y for _, _, y in names])
    return [name for name, front in zip(names, fronts, strict=True) if front]


def _explain(axes: Axes, curves: Sequence[Curve], telling: str) -> None:
    """Entries of the legend: a colour for every series, a marker for every variant where these have their own."""
    if telling == "variant":
        for curve in curves:
            axes.plot([], [], label=written(_row_or_variant(curve, curves)), **_style(curve))
        return
    for series in dict.fromkeys(curve.series for curve in curves):
        first = next(curve for curve in curves if curve.series == series)
        axes.plot([], [], label=written(series), **_style(first) | ({"marker": ""} if telling else {}))
    for variant in dict.fromkeys(curve.variant for curve in curves if telling and curve.variant):
        first = next(curve for curve in curves if curve.variant == variant)
        axes.plot([], [], label=written(variant), **_style(first) | {"color": "#555555", "linestyle": ""})


def _row_or_variant(curve: Curve, curves: Sequence[Curve]) -> str:
    """The row that a curve is all of, where that has a name, else what differs."""
    rows = set(curve.points["row"])
    others = {row for other in curves if other is not curve for row in other.points["row"]}
    return (
        rows.pop()
        if len(rows) == 1 and rows.isdisjoint(others) and curve.points["row"].notna().all()
        else curve.variant
    )


def _warned(axes: Axes, points: pd.DataFrame) -> None:
    """A red ring around every point whose jobs have warnings."""
    marked = points[points["warnings"] != ""]
    if len(marked):
        ring = {"ls": "", "marker": "o", "ms": 13, "mfc": "none", "mec": RED, "mew": 1.4, "zorder": 4}
        axes.plot(marked["macs_ratio_mean"], 100 * marked["accuracy_mean"], label=WARNED, **ring)


def _front(axes: Axes, points: pd.DataFrame) -> None:
    """A broad grey line through the front that a search has found, by validation images."""
    if FRONT in points and len(mine := points[points[FRONT] != ""].sort_values("macs_ratio_mean")):
        look = {"color": "#BBBBBB", "lw": 5, "zorder": 1, "solid_capstyle": "round", "label": FOUND}
        axes.plot(mine["macs_ratio_mean"], 100 * mine["accuracy_mean"], **look)


def _published(axes: Axes, paper: Published, curves: Sequence[Curve]) -> list[tuple[str, float, float]]:
    """Hollow markers for the paper's rows, tied to ours by a thin line; those that we have no result of, with names."""
    unseen = []
    for row in paper.rows:
        known = derived(paper.of_row(row))
        if not {"accuracy", "macs_ratio"} <= known.keys():
            continue
        x, y = known["macs_ratio"], 100 * known["accuracy"]
        look = {"color": "#7F7F7F", "marker": "o"}
        seen = False
        for curve in curves:
            for _, point in curve.points.iterrows():
                if same_row(point["row"], row) and not point["control"] and not point["departures"]:
                    seen, look = True, {"color": curve.color, "marker": curve.marker}
                    tie = [x, point["macs_ratio_mean"]], [y, 100 * point["accuracy_mean"]]
                    axes.plot(*tie, ":", color=curve.color, lw=0.9, zorder=2)
        axes.plot([x], [y], ls="", ms=8, mfc="white", mew=1.4, zorder=2, **look)
        unseen += [] if seen else [(shortened(row, LONGEST), x, y)]
    if any(line.get_markerfacecolor() == "white" for line in axes.lines):
        axes.plot([], [], ls="", marker="o", ms=7, mfc="white", color="#444444", label=PUBLISHED)
    return unseen


def _dense(axes: Axes, points: pd.DataFrame, paper: Published | None) -> None:
    """A star at ratio 1 for every distinct dense accuracy, ours filled and the paper's hollow."""
    ours = (100 * points["accuracy_dense_mean"].dropna().round(6)).drop_duplicates()
    printed = set()
    if paper is not None:
        values = map(paper.of_row, paper.rows)
        printed = {100 * known["accuracy_dense"] for known in values if "accuracy_dense" in known}
    star = {"marker": "*", "color": "black", "ls": "", "ms": 12, "zorder": 5}
    if printed:
        axes.plot([1] * len(printed), sorted(printed), mfc="white", mew=1.0, label=DENSE_PUBLISHED, **star)
    if len(ours):
        axes.plot([1] * len(ours), ours, mec="white", mew=0.6, label=DENSE, **star)
    if len(ours) == 1:
        axes.axhline(ours.iloc[0], color="black", lw=0.8, ls="--", alpha=0.5, zorder=1)


def _style(curve: Curve) -> dict:
    return {"color": curve.color, "marker": curve.marker, "markersize": 6, "linewidth": 1.3}
