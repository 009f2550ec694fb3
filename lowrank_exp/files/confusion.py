"""Which class was taken for which: the file of one phase, and the names in it. No torch here.

C classes; counts_CC[i, j]: images of class i whose highest logit was that of j.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lowrank_exp.files.whole import write_whole
from lowrank_exp.text.plain_text import as_cell, as_file_name, from_cell, plain

FOLDER = "confusion"  # of a job; one file per phase
COLUMNS = ["label", "prediction", "images"]
LONGEST_NAME = 100  # of a file, in characters
MOST_IMAGES = 2**40
MOST_CLASSES = 2**13


def path_in(job: Path, phase: str) -> Path:
    """Where the counts of a phase lie in a job's folder."""
    return job / FOLDER / f"{as_file_name(plain(phase))[:LONGEST_NAME]}.csv"


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """A name of its own for every class: where two share one, their labels tell them apart.

    >>> class_names(["crane", "dog", "crane"])
    ('crane (0)', 'dog', 'crane (2)')
    """
    return tuple(f"{name} ({label})" if classes.count(name) > 1 else name for label, name in enumerate(classes))


def write(path: str | Path, classes: Sequence[str], counts_CC: np.ndarray) -> None:
    """Write a line of label, prediction and images for every count above 0; the whole file or nothing.

    What a class got right has a line in any case, so every class is named, in the order of the labels. An output
    beyond the classes, of a network that has more of them than the data, is called `output 12`.

    Raises:
        ValueError: counts that are not square, fewer of them than classes, or labels beyond the classes.
    """
    outputs = len(counts_CC)
    if np.shape(counts_CC) != (outputs, outputs) or outputs < len(classes) or np.any(counts_CC[len(classes) :]):
        raise ValueError(
            f"{path}: counts of shape {np.shape(counts_CC)} for {len(classes)} classes; there must be a row and a "
            "column for every output of the network, and no images in the rows beyond the classes"
        )
    names = (*class_names(classes), *(f"output {number}" for number in range(len(classes), outputs)))
    text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with write_whole(path) as temporary, open(temporary, "w", **text) as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for label in range(len(classes)):
            for prediction in sorted({label, *np.flatnonzero(counts_CC[label]).tolist()}):
                both = as_cell(names[label]), as_cell(names[prediction])
                lines.writerow([*both, int(counts_CC[label, prediction])])


def read(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and counts (C, C): the classes in order, after them other outputs that were predicted.

    Raises:
        ValueError: the file is damaged, or names more classes than can be counted.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            head, *lines = list(csv.reader(file)) or [[]]
        counts = {(from_cell(label), from_cell(prediction)): int(images) for label, prediction, images in lines}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run its job again") from error
    if head != COLUMNS or len(counts) != len(lines) or not all(0 <= count <= MOST_IMAGES for count in counts.values()):
        raise ValueError(
            f"{path} is damaged: its columns must be {', '.join(COLUMNS)}, each pair of classes once, no count below "
            f"0 or above {MOST_IMAGES:,}; delete it and run its job again"
        )
    names = tuple(dict.fromkeys([*(label for label, _ in counts), *(prediction for _, prediction in counts)]))
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{path} names {len(names):,} classes; at most {MOST_CLASSES:,} can be counted")
    number = {name: row for row, name in enumerate(names)}
    counts_CC = np.zeros((len(names), len(names)), dtype=np.int64)
    for (label, prediction), images in counts.items():
        counts_CC[number[label], number[prediction]] = images
    return names, counts_CC
