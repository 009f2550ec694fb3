"""Accuracies of rows that all cost the same, a bar each."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowrank_exp.report.expected import same_row
from lowrank_exp.report.palette import (
    ACCURACY,
    COLORS,
    DENSE,
    DPI,
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
from lowrank_exp.report.published import Published
from lowrank_exp.report.quantities import derived
from lowrank_exp.text.plain_text import shortened

ALIKE = 0.01  # greatest difference of costs, relative to the greatest
ROW = 0.28  # inches
LONGEST_ROW = 44  # characters
MOST = 60  # rows that are drawn


def cost_alike(points: pd.DataFrame) -> bool:
    """Whether several rows keep as many MACs, within 1 %."""
    ratios = points["macs_ratio_mean"]
    return len(points) > 1 and ratios.max() - ratios.min() <= ALIKE * ratios.max()


def bars(points: pd.DataFrame, paper: Published | None = None, title: str = "") -> Figure:
    """Draw rows of `table` below each other: accuracy in percent, one standard deviation over seeds, its number beside.

    The star is the dense network, the hollow circle what was published. Of more than `MOST` rows the most accurate are
    drawn, as the title then says.
    """
    count, points = len(points), points.loc[points["accuracy_mean"].nlargest(MOST).index.sort_values()]
    names = series_of(points)
    every = list(dict.fromkeys(names))
    figure = Figure(figsize=(WIDTH, 1.3 + ROW * len(points)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    places, accuracy = np.arange(len(points)), 100 * points["accuracy_mean"].to_numpy()
    spread = half_lengths(100 * points["accuracy_std"])
    warned = (points["warnings"] != "").to_numpy()
    for number, name in enumerate(every):
        mine = np.array([one == name for one in names])
        color = COLORS[number % len(COLORS)]
        axes.barh(places[mine], accuracy[mine], 0.7, color=color, alpha=0.85, label=written(name), zorder=2)
    if spread is not None:
        axes.errorbar(accuracy, places, xerr=spread, ls="", color="#333333", capsize=2, elinewidth=1.0, zorder=3)
    if warned.any():
        edge = {"fill": False, "edgecolor": RED, "linewidth": 1.4, "zorder": 4}
        axes.barh(places[warned], accuracy[warned], 0.7, label=WARNED, **edge)
    dense = 100 * points["accuracy_dense_mean"].to_numpy()
    if np.isfinite(dense).any():
        axes.plot(dense, places, ls="", marker="*", ms=9, color="black", mec="white", mew=0.5, label=DENSE, zorder=5)
    _published(axes, paper, points)
    _name_rows(axes, points, places)
    axes.set(xlabel=ACCURACY, ylabel="row", ylim=(len(points) - 0.5, -0.5))
    remain = f"{100 * points['macs_ratio_mean'].mean():.1f} % of the dense network's MACs remain"
    drawn = "" if count == len(points) else f"the {len(points)} most accurate of {count} rows; "
    axes.set_title(f"{heading(title, points)}\n{drawn}{remain}", fontsize=10, parse_math=False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    explain(figure, axes)
    return figure


def _published(axes: Axes, paper: Published | None, points: pd.DataFrame) -> None:
    """Hollow circles for the paper's accuracies of our rows."""
    if paper is None:
        return
    found = []
    others = points["control"] + points["departures"]  # which are not compared
    for place, (name, other) in enumerate(zip(points["row"], others, strict=True)):
        row = next((row for row in paper.rows if same_row(name, row) and not other), None)
        value = math.nan if row is None else derived(paper.of_row(row)).get("accuracy", math.nan)
        found += [] if math.isnan(value) else [(100 * value, place)]
    if found:
        x, y = zip(*found, strict=True)
        axes.plot(x, y, ls="", marker="o", ms=7, mfc="white", color="#444444", mew=1.4, label=PUBLISHED, zorder=6)


def _name_rows(axes: Axes, points: pd.DataFrame, places: np.ndarray) -> None:
    """The names of the rows on the left, their accuracies on the right."""
    names = [shortened(name, LONGEST_ROW) for name in points["configuration"]]
    axes.set_yticks(places, names, fontsize=7.5)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    spreads = zip(points["accuracy_mean"], points["accuracy_std"], strict=True)
    for place, (mean, std) in zip(places, spreads, strict=True):
        text = f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), fontsize=7.5, va="center", color="#333333")
