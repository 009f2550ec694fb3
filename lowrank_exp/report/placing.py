"""Names beside points of a figure, so that none covers another, a marker, or the edge."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

DISTANCES = (7, 12, 20, 30, 42, 56, 72, 90, 120, 160, 200)  # points from a point's middle to its name
DIRECTIONS = 24
MARKER = 6.0  # half the side of what a marker covers, points
GAP = 1.0  # between what must not touch, points
CROSSED = 40.0  # points of distance that a name goes rather than lie on a line
NEAR = 12  # points; a name further away is tied to its point

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def place(figure: Figure, axes: Axes, names: Sequence[tuple[str, float, float]], size: float = 7.5) -> list[str]:
    """Write every name beside its point (x, y), the nearest place that is free; the names for which there is none.

    The figure is laid out here and no more thereafter, as what is written would move.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72
    frame, marked, strokes_P2 = _box(axes.get_window_extent(), 0), _markers(axes, MARKER * pixels), _strokes(axes)
    taken: list[Box] = []
    left_out = []
    for name, x, y in names:
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=size, color="#333333")
        text.set(parse_math=False, in_layout=False, zorder=6)
        extent = text.get_window_extent()
        middle = axes.transData.transform((x, y))
        found = []
        for distance, turn in itertools.product(DISTANCES, range(DIRECTIONS)):
            box = _beside(middle, extent.width, extent.height, distance * pixels, 2 * math.pi * turn / DIRECTIONS)
            wide = _grown(box, GAP * pixels)
            if not _inside(box, frame) or any(_meet(wide, other) for other in (*taken, *marked)):
                continue
            tie_P2 = _tie(middle, box)  # the line from its point passes through no other name
            if not any(_holds(other, tie_P2).any() for other in taken):
                found.append((distance + CROSSED * bool(_holds(box, strokes_P2).any()), box))
        if not found:
            text.remove()
            left_out.append(name)
            continue
        cost, box = min(found)
        taken.append(box)
        strokes_P2 = np.concatenate([strokes_P2, _tie(middle, box)])
        text.remove()
        _write(axes, text, (x, y), box, middle, pixels, cost > NEAR)
    return left_out


def _write(
    axes: Axes, text: Annotation, point: tuple[float, float], box: Box, middle: np.ndarray, pixels: float, tied: bool
) -> None:
    """The name with its middle in that of the box, and a line to its point where it is far away."""
    offset = [(low + high) / 2 - at for low, high, at in zip(box[:2], box[2:], middle, strict=True)]
    style = {"fontsize": text.get_fontsize(), "color": text.get_color(), "ha": "center", "va": "center"}
    line = {"arrowstyle": "-", "lw": 0.5, "color": "#999999", "shrinkA": 0, "shrinkB": 3} if tied else None
    where = [value / pixels for value in offset]
    again = axes.annotate(text.get_text(), point, where, textcoords="offset points", arrowprops=line, **style)
    again.set(parse_math=False, in_layout=False, zorder=6)


def _markers(axes: Axes, half: float) -> list[Box]:
    """What the markers of all lines cover."""
    points = [line.get_xydata() for line in axes.lines if line.get_marker() not in ("", "None", None)]
    every = [point for some in points for point in axes.transData.transform(some) if np.isfinite(point).all()]
    return [(x - half, y - half, x + half, y + half) for x, y in every]


def _strokes(axes: Axes) -> np.ndarray:
    """Points close together on all lines and error bars, `(P, 2)`, in pixels."""
    paths = [axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_linestyle() != "None"]
    for bars in axes.collections:
        paths += [axes.transData.transform(path.vertices) for path in bars.get_paths()]
    steps_S1 = np.linspace(0, 1, 200)[:, None]
    pairs = [pair for path in paths if np.isfinite(path).all() for pair in itertools.pairwise(path)]
    return np.concatenate([start + steps_S1 * (end - start) for start, end in pairs]) if pairs else np.empty((0, 2))


def _tie(middle: np.ndarray, box: Box) -> np.ndarray:
    """Points on the line from a point to the middle of a box, `(P, 2)`."""
    steps_P1 = np.linspace(0, 1, 60)[:, None]
    return middle + steps_P1 * (np.array([box[0] + box[2], box[1] + box[3]]) / 2 - middle)


def _beside(middle: np.ndarray, width: float, height: float, distance: float, angle: float) -> Box:
    """A box that much away from a point, its nearest edge or corner towards it."""
    right, up = math.cos(angle), math.sin(angle)
    x = middle[0] + distance * right + (right - 1) * width / 2
    y = middle[1] + distance * up + (up - 1) * height / 2
    return x, y, x + width, y + height


def _holds(box: Box, points_P2: np.ndarray) -> np.ndarray:
    x_P, y_P = points_P2.T
    return (box[0] < x_P) & (x_P < box[2]) & (box[1] < y_P) & (y_P < box[3])


def _box(extent: object, more: float) -> Box:
    return _grown((extent.x0, extent.y0, extent.x1, extent.y1), more)


def _grown(box: Box, more: float) -> Box:
    return box[0] - more, box[1] - more, box[2] + more, box[3] + more


def _inside(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
