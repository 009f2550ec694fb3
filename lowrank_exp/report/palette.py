"""What figures of results share: colours, markers, and the words that name them."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowrank_exp.text.plain_text import shortened

# Okabe and Ito (2008): colours that colour-blind readers tell apart; black is the dense network.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
RED = "#D00000"  # of warnings
WIDTH, DPI = 7.2, 160  # inches; dots per inch
LONGEST = 60  # characters of a name
MOST_NETWORKS = 3  # that a title names
DENSE, DENSE_PUBLISHED, PUBLISHED = "dense", "dense, published", "published"
WARNED = "with warnings"
ACCURACY = "accuracy, %"
LETTER, ENTRY = 0.075, 0.18  # inches of a letter and of a line of a legend


def series_of(points: pd.DataFrame) -> list[str]:
    """Of every point the method and the decomposition, and where policies differ, the policy."""
    several = points["policy"].nunique() > 1
    pairs = zip(points["series"].fillna(""), points["policy"].fillna(""), strict=True)
    return [", ".join(filter(None, (series, policy if several else ""))) for series, policy in pairs]


def heading(title: str, points: pd.DataFrame) -> str:
    """The title, and the networks and the data that the points are of; a second line where any is not as its table
    states.

    >>> frame = pd.DataFrame({"network": ["resnet20", "resnet20"], "data": ["cifar10", "cifar10"]})
    >>> heading("oneshot", frame)
    'oneshot: resnet20 on cifar10'
    """
    networks, data = ([name for name in points[column].unique() if name] for column in ("network", "data"))
    of = " on ".join(filter(None, (_listed(networks, "networks"), _listed(data, "data sets"))))
    said = shortened(": ".join(filter(None, (title, of))), LONGEST + 30)
    others = list(filter(None, points["departures"].unique())) if "departures" in points else []
    return f"{said}\nnot as the table states: {shortened('; '.join(others), LONGEST)}" if others else said


def written(label: str) -> str:
    """A label of a legend, which Matplotlib leaves out where it begins with an underscore."""
    return shortened(f" {label}" if label.startswith("_") else label, LONGEST)


def explain(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """A legend below the axes, where it covers nothing; the figure grows by its lines. Series come first."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: labels[k] in (WARNED, PUBLISHED, DENSE, DENSE_PUBLISHED))
    columns = max(1, min(4, int(WIDTH / (LETTER * max(map(len, labels)) + 0.5))))
    figure.set_figheight(figure.get_figheight() + ENTRY * (math.ceil(len(labels) / columns) + (title is not None)))
    legend = figure.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc="outside lower center",
        ncols=columns,
        title=title and written(title),
        fontsize=8,
        title_fontsize=8,
        frameon=False,
    )
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def half_lengths(std: pd.Series) -> pd.Series | None:
    """Of error bars; none where there is one seed or no spread at all."""
    return std.fillna(0) if (std > 1e-9).any() else None


def _listed(names: Sequence[str], what: str) -> str:
    return ", ".join(names) if len(names) <= MOST_NETWORKS else f"{len(names)} {what}"
