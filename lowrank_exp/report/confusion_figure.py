"""The confusion matrices of a configuration as a figure: the dense network beside the compressed one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from lowrank_exp.text.plain_text import shortened

MOST = 120  # classes whose names can be read
VALUED = 20  # most classes with numbers in the cells
CELL = 0.42  # inches that a number needs
SIDES = (4.2, 11.0)  # inches of a panel
LONGEST = 24  # characters of a name
LONGEST_TITLE = 80
POINTS = 72  # in an inch


def confusion_figure(counts: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Draw counts (labels x predictions) by network, a panel each, in percent of each label's images.

    Rows are labels, columns predictions. The colour follows the square root, so that a few percent are seen beside the
    diagonal. Up to 20 classes the cells hold their numbers.

    Raises:
        ValueError: more than 120 classes, whose names and cells nobody could read.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    most = max(len(frame) for frame in counts.values())
    if most > MOST:
        raise ValueError(f"a confusion matrix of {most} classes cannot be read; at most {MOST} are drawn")
    side = float(np.clip(CELL * most, *SIDES))
    size = min(8.0, 0.7 * POINTS * side / most)
    names = {network: _names(frame) for network, frame in counts.items()}
    room = 0.6 * size / POINTS * max(len(name) for known in names.values() for name in known)
    width, height = (side + room + 0.5) * len(counts) + 1.2, side + room + 1.1
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for axes, (network, frame) in zip(panels, counts.items(), strict=True):
        display = ConfusionMatrixDisplay(_percent(frame), display_labels=names[network])
        display.plot(
            include_values=len(frame) <= VALUED,
            cmap="Blues",
            xticks_rotation="vertical",
            values_format=".1f",
            ax=axes,
            colorbar=False,
            im_kw={"norm": PowerNorm(0.5, vmin=0, vmax=100)},
            text_kw={"fontsize": 7},
        )
        _make_legible(display)
        _name(axes, network, size)
    bar = figure.colorbar(display.im_, ax=panels, shrink=0.7, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("% of the label's images", fontsize=9)
    lines = "\n".join(shortened(line, LONGEST_TITLE) for line in title.split("\n"))
    figure.suptitle(lines, fontsize=10, parse_math=False)
    return figure


def _percent(frame: pd.DataFrame) -> np.ndarray:
    """Rows in percent of their sum; a label without images has zeros."""
    counts_CC = frame.to_numpy(float)
    return 100 * counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)


def _names(frame: pd.DataFrame) -> list[str]:
    return [shortened(str(name), LONGEST) for name in frame.index]


def _make_legible(display: object) -> None:
    """No number where nothing was counted, and a colour that stands out on the cell's."""
    for (row, column), text in np.ndenumerate(display.text_ if display.text_ is not None else np.empty((0, 0))):
        percent = display.confusion_matrix[row, column]
        text.set_text("" if percent == 0 else text.get_text())
        text.set_color("white" if percent > 30 else "#222222")


def _name(axes: Axes, network: str, size: float) -> None:
    axes.set_title(shortened(network, LONGEST), fontsize=9, parse_math=False)
    axes.set_xlabel("prediction", fontsize=9)
    axes.set_ylabel("label", fontsize=9)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set(fontsize=size, parse_math=False)
