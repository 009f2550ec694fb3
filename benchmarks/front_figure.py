"""The picture of the README: accuracy against measured speed, from the tables of `outputs/reference/speed.md`.

    python benchmarks/front_figure.py

The picture holds a digest of what it shows, so that a test tells when the tables have moved on.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

REFERENCE = Path(__file__).parents[1] / "outputs" / "reference"
TABLES, PICTURE = REFERENCE / "speed.md", REFERENCE / "speed_front.png"
DEPTH, RUNTIME = 20, "ONNX Runtime"
TABLE = re.compile(r"^### ResNet-(?P<depth>\d+), batch (?P<batch>\d+)\n\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)
LOOKS = {  # method: label, colour (those of Okabe and Ito), marker
    "macs": ("spatial SVD, planned by MACs", "#0072B2", "o"),
    "time": ("five decompositions, planned by time", "#D55E00", "s"),
    "asymmetric": ("the same, fitted in sequence", "#CC79A7", "D"),
    "taylor": ("filters removed by Taylor scores", "#009E73", "^"),
}
LOWEST = 25  # points of accuracy below dense that are shown


@dataclass(frozen=True)
class Point:
    """A network: whose, at which batch size, by which method and budget; how fast and how good (test, percent)."""

    depth: int
    batch: int
    method: str
    budget: float
    speed_up: float
    test: float


def read_points(text: str) -> list[Point]:
    """All networks of the tables of accuracy in a page.

    >>> read_points("### ResNet-20, batch 1\\n\\n| method | budget | speed-up | test |\\n|---|---|---|---|\\n"
    ...             "| time | 0.5 | 1.98 | 81.94 |\\n")
    [Point(depth=20, batch=1, method='time', budget=0.5, speed_up=1.98, test=81.94)]
    """
    return [point for found in TABLE.finditer(text) for point in _of_table(found)]


def _of_table(found: re.Match) -> Iterator[Point]:
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in found["rows"].splitlines())
    for line in lines:
        row = dict(zip(head, line, strict=True))
        numbers = (float(row[name]) for name in ("budget", "speed-up", "test"))
        yield Point(int(found["depth"]), int(found["batch"]), row["method"], *numbers)


def digest(points: Sequence[Point]) -> str:
    """Of everything that the picture shows."""
    return hashlib.sha256(json.dumps([asdict(point) for point in points]).encode()).hexdigest()


def draw(points: Sequence[Point]) -> Figure:
    """Test accuracy against speed-up, a panel for every batch size."""
    sizes = sorted({point.batch for point in points})
    figure = Figure(figsize=(4.6 * len(sizes), 3.7), dpi=160, layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        here = [point for point in points if point.batch == size]
        dense = next(point for point in here if point.method == "dense")
        axes.axhline(dense.test, color="black", linewidth=0.8, linestyle=":", zorder=1)
        axes.plot(dense.speed_up, dense.test, "k*", markersize=11, label="dense", zorder=4)
        for method, (label, color, marker) in LOOKS.items():
            mine = sorted((point for point in here if point.method == method), key=lambda point: -point.budget)
            x, y = [point.speed_up for point in mine], [point.test for point in mine]
            axes.plot(x, y, color=color, marker=marker, markersize=4.5, linewidth=1.4, label=label, zorder=3)
        axes.set_title(f"ResNet-{dense.depth} on CIFAR-10, batch {size}, no training", fontsize=10)
        axes.set_xlabel(f"measured speed-up in {RUNTIME}, one thread", fontsize=9)
        axes.set_ylabel("test accuracy, %", fontsize=9)
        axes.set_ylim(dense.test - LOWEST, dense.test + 1.5)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if size == sizes[0]:
            axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES, help="the page whose tables are drawn")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the picture goes (png)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="of the CIFAR ResNet")
    arguments = parser.parse_args()
    shown = [p for p in read_points(arguments.tables.read_text(encoding="utf-8")) if p.depth == arguments.depth]
    draw(shown).savefig(arguments.picture, metadata={"Description": digest(shown)})
