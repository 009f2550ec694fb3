"""Results of a small made-up comparison, as jobs would leave them, and the page that shows them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from lowrank_exp.files import confusion
from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.report.cli import main
from support.synthetic_jobs import make_job

CLASSES = ["cat", "dog", "ship"]
TABLE = """\
title: Table 1
source: {paper: A. Author 2021}
columns:
  accuracy: {quantity: accuracy, unit: '%'}
  FLOPs: {quantity: macs_ratio, unit: '%'}
seeds: [0, 1]
rows:
  svd:
    published: {accuracy: 89.5, FLOPs: 45}
  energy:
    published: {accuracy: 88.0, FLOPs: 35}
  absent: {}
"""
# Name, policy, share of the MACs, accuracies of two seeds, milliseconds: the dense network has 90 % and takes 4 ms.
ROWS = (
    ("svd", "uniform", 0.5, (0.897, 0.899), 3.0),
    ("energy", "energy", 0.3, (0.893, 0.895), 3.5),
    ("cheap", "energy", 0.2, (0.85, 0.87), 2.0),
    ("poor", "uniform", 0.6, (0.80, 0.82), 3.8),
)


def whole_job(name: str, policy: str, ratio: float, accuracy: float, ms: float, seed: int) -> Result:
    """A job with all that a result may hold: times, layers, curves, accuracies by class."""
    made = make_job(row=name, experiment="table1", seed=seed, policy=policy, ratio=ratio, accuracy=accuracy)
    dense, last = made.phases
    runtime = {"name": "eager", "version": "2.15", "threads": 1}
    dense = replace(
        dense,
        runtime=runtime,
        latency=[{"batch_size": 1, "median_ms": 4.0}, {"batch_size": 8, "median_ms": 20.0}],
        class_accuracy=dict(zip(CLASSES, (0.9, 0.9, 0.9), strict=True)),
        history=epochs(3),
    )
    last = replace(
        last,
        latency_ms=ms,
        runtime=runtime,
        latency=[{"batch_size": 1, "median_ms": ms}, {"batch_size": 8, "median_ms": 5 * ms + 1}],
        class_accuracy=dict(zip(CLASSES, (0.9, 0.8, 0.95), strict=True)),
        history=epochs(2),
    )
    middle = replace(dense, name="factorize", accuracy=accuracy - 0.1, history=[], values={"own": 1.5})
    return replace(made, phases=[dense, middle, last], dense=dense, layers=layers_of(ratio))


def epochs(count: int) -> list[dict]:
    """A curve that falls and a learning rate that steps."""
    return [
        {
            "epoch": k,
            "train_loss": 2.0 / (k + 1),
            "val_loss": 2.2 / (k + 1),
            "val_accuracy": 0.5,
            "learning_rate": 0.1**k,
        }
        for k in range(count)
    ]


def layers_of(ratio: float) -> list[LayerResult]:
    """One layer that is decomposed and one that is left alone."""
    curve = [[k, 2.0 ** (1 - k)] for k in range(1, 9)]
    costs = (900_000, 900_000 * ratio, 9e4, 9e4 * ratio, 16, 16)
    return [
        LayerResult("conv1", "spatial_svd", 4, *costs, "chosen by uniform", 0.2, 0.01, None, 8, [curve]),
        LayerResult("fc", None, None, 100_000, 100_000, 1e5, 1e5, 10, 10, "left alone by a rule"),
    ]


def write_comparison(folder: Path, rows: Sequence[tuple] = ROWS) -> Path:
    """Two seeds of every row, and one that has failed; each with its confusion counts and its command."""
    jobs = [
        whole_job(name, policy, ratio, one, ms, seed)
        for name, policy, ratio, accuracies, ms in rows
        for seed, one in enumerate(accuracies)
    ]
    error = "Traceback (most recent call last):\n  File\nRuntimeError: no memory for conv_1\n"
    jobs.append(
        make_job(row="cheap", experiment="table1", policy="energy", ratio=0.2, seed=2, status="failed", error=error)
    )
    for number, job in enumerate(jobs):
        at = folder / f"{number:02d}"
        job.write(at / "result.json")
        (at / ".hydra").mkdir()
        words = ["experiment=table1", f"row=table1/{job.row}", f"seed={job.seed}"]
        (at / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
        for phase in job.phases:
            confusion.write(confusion.path_in(at, phase.name), CLASSES, counts_of(phase))
    return folder


def counts_of(phase: PhaseResult) -> np.ndarray:
    """Of ten images a class: those that are not recognised are taken for the next class."""
    right = np.rint(10 * np.array(list(phase.class_accuracy.values()))).astype(int)
    return np.diag(right) + np.roll(np.diag(10 - right), 1, axis=1)


def write_table(folder: Path) -> Path:
    """A configuration folder with the table of these rows."""
    (folder / "table").mkdir(parents=True)
    (folder / "table" / "table1.yaml").write_text(TABLE)
    return folder


def write_page(tmp_path: Path, write: Callable[[Path], Path] = write_comparison) -> Path:
    """The page of what `write` writes into a folder."""
    page = tmp_path / "report.html"
    arguments = [str(write(tmp_path / "runs")), "--out", str(tmp_path / "report"), "--html", str(page)]
    main(arguments, conf=write_table(tmp_path / "conf"))
    return page
