"""What compression did to single classes, as records: accuracies before and after, and the confusions that came or
went."""

from typing import Any

import numpy as np

from lowrank_exp.report.classes import CHANGE, COMPRESSED, DENSE, class_table, counts_of, drawable
from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.html.pool import Pool, short, shorts

MOST_CLASSES = 30  # of a matrix and of a list; of more classes those that lost most are listed


def class_record(row: Configuration, pool: Pool, phase: str | None = None) -> dict[str, Any] | None:
    """Accuracies by class and the difference of the confusion counts against the dense network; None: not recorded.

    `confusion` holds `[label, prediction, images]` of every difference: how many images more (or fewer) the compressed
    network takes for that class, over all seeds, those of the largest magnitude first where there are many classes.
    """
    frame = class_table(row, phase)
    if frame.empty or f"{CHANGE}_mean" not in frame:
        return None
    worst = f"{CHANGE}_mean"
    shown = frame if len(frame) <= MOST_CLASSES else frame.sort_values(worst, kind="stable").head(MOST_CLASSES)
    after = [name for name in shown if name.startswith("accuracy.") and name.endswith("_mean")]
    record = {
        "names": pool.place_of(list(map(str, shown.index))),
        "of": len(frame),
        "dense": shorts(list(shown[after[0]])),
        "change": shorts(list(shown[f"{CHANGE}_mean"])),
        "spread": shorts(list(shown[f"{CHANGE}_std"])),
    }
    counts = drawable(row, phase)
    if {DENSE, COMPRESSED} <= counts.keys():
        names = list(dict.fromkeys([*counts[DENSE].index, *counts[COMPRESSED].index]))
        before, now = (counts_of(names, counts[of].index, counts[of].to_numpy()) for of in (DENSE, COMPRESSED))
        record["confusion"] = _largest(now - before)
        record["confused"] = pool.place_of(list(map(str, names)))
        record["images"] = short(int(before.sum()))
    return record


def _largest(difference_CC: np.ndarray) -> list[list[int]]:
    """Where counts differ, at most as many as a matrix of `MOST_CLASSES` has."""
    places = np.argwhere(difference_CC)
    order = np.argsort(-np.abs(difference_CC[tuple(places.T)]), kind="stable")[: MOST_CLASSES**2]
    return [[int(i), int(j), int(difference_CC[i, j])] for i, j in places[order]]
