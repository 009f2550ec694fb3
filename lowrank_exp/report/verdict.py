"""What should I take? The cheapest network that loses no more than so much, by measured time and by MACs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

WITHIN = (0.5, 1.0)  # points of accuracy below the dense network
BY = {"latency_ms": "by time", "macs": "by MACs"}
CHOSEN = "Chosen among {count} by their accuracy on test images, which is a little flattering to the chosen."


@dataclass(frozen=True)
class Pick:
    """The network that costs least of those within `points` of its dense network; `place` is its row, None: none is.

    `ratio` is what remains of the cost, `change` of the accuracy, in points; `way` is what has timed it. Where none is
    near enough, `why` says so.
    """

    points: float
    cost: str
    place: int | None
    label: str = ""
    ratio: float = math.nan
    change: float = math.nan
    now: float = math.nan
    dense: float = math.nan
    way: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """What stands behind its label: how much cheaper, by what and from what, at which accuracy.

        >>> Pick(0.5, "macs", 0, "svd", 0.4, -0.31).text
        '40.0 % of the MACs, accuracy -0.31 points'
        """
        if self.place is None:
            return self.why
        times = f" ({self.now:.3g} ms instead of {self.dense:.3g}; {self.way})" if self.cost == "latency_ms" else ""
        return f"{self.cheaper}{times}, accuracy {self.change:+.2f} points"

    @property
    def cheaper(self) -> str:
        """What remains of its cost, or how many times as fast it is."""
        return f"{100 * self.ratio:.1f} % of the MACs" if self.cost == "macs" else f"{1 / self.ratio:.2f} times as fast"


def verdict(frame: pd.DataFrame) -> list[Pick]:
    """A pick for every tolerance and cost, of rows of `table` that are of one experiment; none where nothing is known.

    A candidate has finished with all of its targets, is not a control, is cheaper than its dense network, and has lost
    at most so many points against it, in the mean over its seeds. Of candidates that cost the same the more accurate
    one is taken. Times are compared within one way of timing, the one that most rows have.
    """
    records = frame.to_dict("records")
    answers = [
        _pick(records, cost, points, way)
        for points in WITHIN
        for cost, way in (("latency_ms", way_of_most(frame)), ("macs", ""))
    ]
    return [one for one in answers if one is not None]


def told(picks: Sequence[Pick]) -> str:
    """The picks in one line; empty: nothing is known.

    >>> told([Pick(0.5, "macs", 0, "svd", 0.4, -0.31), Pick(1.0, "macs", 0, "svd", 0.4, -0.31)])
    'within 0.5 points: by MACs svd (40.0 % of the MACs, -0.31 points); within 1 point: the same'
    """
    parts, before = [], None
    for points in WITHIN:
        mine = [one for one in picks if one.points == points]
        chosen = [one.place for one in mine]
        said = "the same" if chosen == before else ", ".join(map(_told, mine))
        before = chosen
        parts += [f"within {points:g} point{'' if points == 1 else 's'}: {said}"] if mine else []
    return "; ".join(parts)


def _told(pick: Pick) -> str:
    return f"{BY[pick.cost]} {f'{pick.label} ({pick.cheaper}, {pick.change:+.2f} points)' if pick.label else 'none'}"


def way_of_most(frame: pd.DataFrame) -> str:
    """What has timed most rows; of equally many the first."""
    ways = [way for way in frame["timed_by"] if way and ";" not in way]
    return max(dict.fromkeys(ways), key=ways.count, default="")


def _pick(records: Sequence[Mapping[Hashable, Any]], cost: str, points: float, way: str) -> Pick | None:
    ratio, change = f"{cost}_ratio_mean", "accuracy_change_mean"
    rows = [(place, row) for place, row in enumerate(records) if row["n"] and not row["control"]]
    rows = [(place, row) for place, row in rows if not math.isnan(row[ratio]) and not math.isnan(row[change])]
    rows = [(place, row) for place, row in rows if cost == "macs" or row["timed_by"] == way]
    if not rows:
        return None
    cheaper = [(place, row) for place, row in rows if row[ratio] < 1 and row["status"] != "missed"]
    near = [(place, row) for place, row in cheaper if 100 * row[change] >= -points - 1e-9]
    if not near:
        of = "with fewer MACs" if cost == "macs" else "that is faster"
        why = f"no network {of} is within {points:g} point{'' if points == 1 else 's'}"
        if cheaper:
            nearest = max(cheaper, key=lambda one: one[1][change])[1]
            why += f"; the nearest is {nearest['configuration']}, {100 * nearest[change]:+.2f} points"
        return Pick(points, cost, None, why=why)
    place, row = min(near, key=lambda one: (one[1][ratio], -one[1][change]))
    numbers = row[ratio], 100 * row[change], row[f"{cost}_mean"], row[f"{cost}_dense_mean"]
    return Pick(points, cost, place, str(row["configuration"]), *map(float, numbers), way)
