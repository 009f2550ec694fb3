"""What compression did to single classes: accuracy by class after every phase, and which was taken for which."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lowrank_exp.files import confusion
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.confusion_figure import MOST
from lowrank_exp.report.quantities import dense_and_compressed
from lowrank_exp.text.plain_text import plain

ALL_SHOWN = 20  # classes that a printed table has in full; of more it has the WORST
WORST = 10
CHANGE = "accuracy_change"
DENSE, COMPRESSED = "dense", "compressed"


def class_table(row: Configuration, phase: str | None = None) -> pd.DataFrame:
    """A line per class, in the order of the labels: mean and spread over seeds (ddof 1), as fractions.

    Columns `accuracy.PHASE_mean` and `_std` for every phase, and `accuracy_change_mean` and `_std`, which is the
    compressed network (the phase named `phase`, or the last one) minus the dense one. A mean is empty where any seed
    lacks the number, and for a class without test images. No line where nothing was recorded.
    """
    found = [_of_job(job, phase) for job in row.finished]
    classes = list(dict.fromkeys(name for columns in found for column in columns.values() for name in column))
    columns = list(dict.fromkeys(name for columns in found for name in columns))
    columns.sort(key=CHANGE.__eq__)
    if not classes:
        return pd.DataFrame(index=pd.Index([], name="class"))
    values_SCP = np.array(
        [[[of.get(column, {}).get(name, math.nan) for column in columns] for name in classes] for of in found]
    )
    mean_CP = values_SCP.mean(0)
    std_CP = values_SCP.std(0, ddof=1) if len(found) > 1 else np.full_like(mean_CP, np.nan)
    parts = {f"{name}_mean": mean_CP[:, k] for k, name in enumerate(columns)}
    parts |= {f"{name}_std": std_CP[:, k] for k, name in enumerate(columns)}
    order = [f"{name}_{part}" for name in columns for part in ("mean", "std")]
    return pd.DataFrame(parts, index=pd.Index(classes, name="class"))[order]


def shown(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The lines of `class_table` to print, and what they are: all, or of many classes those that lost most.

    >>> frame = pd.DataFrame({"accuracy_change_mean": [-0.1] * 30 + [-0.3]}, index=[f"c{k}" for k in range(31)])
    >>> what, lines = shown(frame)
    >>> what, list(lines.index[:2])
    ('the 10 of 31 classes that lost most', ['c30', 'c0'])
    """
    if len(frame) <= ALL_SHOWN:
        return "accuracy by class", frame
    by = f"{CHANGE}_mean" if f"{CHANGE}_mean" in frame else frame.columns[-2]
    what = "that lost most" if by.startswith(CHANGE) else "of the lowest accuracy"
    return f"the {WORST} of {len(frame)} classes {what}", frame.sort_values(by, kind="stable").head(WORST)


def all_classes(rows: Sequence[Configuration], phase: str | None = None) -> pd.DataFrame:
    """`class_table` of all configurations below each other, behind the columns experiment, configuration, n, class."""
    frames = []
    for row in rows:
        frame = class_table(row, phase).reset_index()
        heads = {"experiment": row.experiment, "configuration": row.label, "n": len(row.finished)}
        for place, (name, value) in enumerate(heads.items()):
            frame.insert(place, name, value)
        frames.append(frame)
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def confusions(row: Configuration, phase: str | None = None) -> dict[str, pd.DataFrame]:
    """Counts of the `dense` and of the `compressed` network, summed over seeds: labels x predictions.

    One of them where a job has a single phase: compressed, if that changed a layer. Empty where a seed has no file
    of counts. Raises ValueError for one that is damaged or has too many classes.
    """
    found: dict[str, pd.DataFrame] = {}
    for name, network in _networks(row, phase).items():
        paths = [confusion.path_in(job.folder, name) for job in row.finished if job.folder is not None]
        if len(paths) < len(row.finished) or not all(path.is_file() for path in paths):
            return {}
        read = [(list(map(plain, names)), counts) for names, counts in map(confusion.read, paths)]
        every = list(dict.fromkeys(label for names, _ in read for label in names))
        found[network] = pd.DataFrame(sum(counts_of(every, *one) for one in read), every, every)
    return found


def counts_of(classes: Sequence[str], names: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Counts of the classes named `names` as counts of `classes`, 0 of those that are not among them."""
    if list(names) == list(classes):
        return counts
    return pd.DataFrame(counts, names, names).reindex(index=classes, columns=classes, fill_value=0).to_numpy()


def drawable(row: Configuration, phase: str | None = None) -> dict[str, pd.DataFrame]:
    """`confusions`, where they can be read and drawn; `class_notes` say why others cannot."""
    return _drawable(row, phase)[0]


def class_notes(rows: Sequence[Configuration], phase: str | None = None) -> list[str]:
    """The configurations of which something by class is not shown, and why."""
    reasons = {row.label: _drawable(row, phase)[1] for row in rows}
    return [f"{label}: {reason}" for label, reason in reasons.items() if reason]


def _drawable(row: Configuration, phase: str | None) -> tuple[dict[str, pd.DataFrame], str]:
    """What of `confusions` can be drawn, and if nothing, why."""
    if not row.finished:
        return {}, ""
    if not all(item.class_accuracy for item in _ends(row, phase)):
        return {}, "no accuracy by class and no confusion matrix: a seed was measured before these were recorded"
    try:
        counts = confusions(row, phase)
    except ValueError as error:
        return {}, f"no confusion matrix: {plain(str(error))}"
    if not counts:
        return {}, f"no confusion matrix: a job's folder lacks {confusion.FOLDER}/PHASE.csv"
    classes = max(map(len, counts.values()))
    if classes > MOST:
        return {}, f"a confusion matrix of {classes} classes is not drawn; up to {MOST} can be read"
    return counts, ""


def _networks(row: Configuration, phase: str | None) -> dict[str, str]:
    """What the networks after the first and the last phase are called, by phase."""
    phases = list(dict.fromkeys(item.name for item in _ends(row, phase)))
    if len(phases) > 1:
        return {phases[0]: DENSE, phases[-1]: COMPRESSED}
    changed = any(layer.macs_before != layer.macs_after for job in row.finished for layer in job.layers)
    return dict.fromkeys(phases, COMPRESSED if changed else DENSE)


def _ends(row: Configuration, phase: str | None) -> list[PhaseResult]:
    """The dense and the compressed network of every seed, as far as there are phases of these names."""
    found = []
    for job in row.finished:
        dense, compressed = dense_and_compressed(job, phase)
        found += [dense] if dense.accuracy is not None else []  # what was not measured is told elsewhere
        found += [compressed] if compressed.name else []
    return found


def _of_job(job: Result, phase: str | None) -> dict[str, dict[str, float]]:
    """Of every class by phase, and the change where both ends of it were recorded."""
    dense, compressed = dense_and_compressed(job, phase)
    measured = [item for item in (dense, *job.phases) if item.class_accuracy]
    columns = {f"accuracy.{item.name}": _shares(item) for item in measured}
    if dense.name != compressed.name and dense.class_accuracy and compressed.class_accuracy:
        before, now = _shares(dense), _shares(compressed)
        columns[CHANGE] = {name: now.get(name, math.nan) - of for name, of in before.items()}
    return columns


def _shares(phase: PhaseResult) -> dict[str, float]:
    return {name: math.nan if share is None else share for name, share in phase.class_accuracy.items()}
