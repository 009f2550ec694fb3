"""Accuracy by class: tables, files and messages of `lowrank-report --classes`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowrank_exp.files import confusion
from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.report.classes import class_table, confusions, shown
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.render import class_text

ANIMALS = ("zebra", "ant", "mole")


def with_classes(job: Result, shares: Mapping[str, list]) -> Result:
    """The job with phases of these accuracies of the animals."""
    phases = [
        PhaseResult(name, 0.5, macs=100, class_accuracy=dict(zip(ANIMALS, s, strict=True)))
        for name, s in shares.items()
    ]
    return replace(job, phases=phases, dense=phases[0])


def with_counts(folder: Path, counts: Mapping[str, list], names: tuple = ANIMALS) -> None:
    """Counts of every phase beside each result below the folder."""
    for path in folder.rglob("result.json"):
        for phase, counts_CC in counts.items():
            confusion.write(confusion.path_in(path.parent, phase), names, np.array(counts_CC))


def test_mean_and_spread_over_seeds_in_the_order_of_the_labels(job: Callable) -> None:
    first = {"train": [0.9, 1.0, None], "factorize": [0.5, 0.5, None], "finetune": [0.8, 0.6, None]}
    second = {"train": [0.7, 1.0, None], "factorize": [0.25, 0.5, None], "finetune": [0.8, 0.7, None]}
    jobs = [with_classes(job(seed=seed), shares) for seed, shares in enumerate((first, second))]
    (row,) = configurations(jobs)
    frame = class_table(row)
    assert list(frame.index) == list(ANIMALS)
    phases = [f"accuracy.{name}" for name in first] + ["accuracy_change"]
    assert list(frame.columns) == [f"{name}_{part}" for name in phases for part in ("mean", "std")]
    for label, name in enumerate(ANIMALS[:2]):
        shares = {f"accuracy.{phase}": [first[phase][label], second[phase][label]] for phase in first}
        shares["accuracy_change"] = [s["finetune"][label] - s["train"][label] for s in (first, second)]
        for column, values in shares.items():
            found = frame.loc[name, [f"{column}_mean", f"{column}_std"]].tolist()
            assert found == pytest.approx([np.mean(values), np.std(values, ddof=1)], abs=1e-12)
    assert frame.loc["mole"].isna().all()

    text = class_text(frame)
    assert text.iloc[0].tolist() == ["zebra", "80.00 ± 14.14", "37.50 ± 17.68", "80.00 ± 0.00", "+0.00 ± 14.14"]
    assert list(text.columns) == ["class", "train %", "factorize %", "finetune %", "change"]
    assert text.iloc[2].tolist() == ["mole", "", "", "", ""]


def test_the_change_is_that_of_the_named_phase(job: Callable) -> None:
    shares = {"train": [0.9, 1.0, 0.5], "factorize": [0.5, 0.5, 0.5], "finetune": [0.8, 0.6, 0.5]}
    (row,) = configurations([with_classes(job(), shares)])
    assert class_table(row, "factorize")["accuracy_change_mean"].tolist() == pytest.approx([-0.4, -0.5, 0], abs=1e-12)
    assert "accuracy_change_mean" not in class_table(row, "train")
    assert class_table(row)["accuracy_change_std"].isna().all()


def test_a_seed_without_the_numbers_leaves_the_mean_empty(job: Callable) -> None:
    (row,) = configurations([with_classes(job(seed=0), {"train": [0.9, 1.0, 0.5]}), job(seed=1)])
    assert class_table(row)["accuracy.train_mean"].isna().tolist() == [True] * 3
    assert class_table(configurations([job()])[0]).empty


def test_of_many_classes_those_that_lost_most() -> None:
    change = np.random.default_rng(0).normal(size=100)
    change[7] = math.nan
    frame = pd.DataFrame({"accuracy_change_mean": change, "accuracy_change_std": change}, [f"c{k}" for k in range(100)])
    what, lines = shown(frame)
    assert what == "the 10 of 100 classes that lost most"
    assert lines["accuracy_change_mean"].tolist() == sorted(change[~np.isnan(change)])[:10]
    what, lines = shown(frame.rename(columns=lambda name: name.replace("_change", ".train")))
    assert what == "the 10 of 100 classes of the lowest accuracy"
    assert lines["accuracy.train_mean"].tolist() == sorted(change[~np.isnan(change)])[:10]
    assert shown(frame.head(20))[1] is not lines
    assert len(shown(frame.head(20))[1]) == 20


def test_counts_are_summed_over_seeds(runs: Callable, job: Callable) -> None:
    shares = {"train": [1, 1, 1], "finetune": [1, 1, 1]}
    folder = runs(*(with_classes(job(seed=seed), shares) for seed in (0, 1)))
    with_counts(folder, {"train": np.eye(3, dtype=int), "finetune": np.arange(9).reshape(3, 3)})
    (row,) = configurations([Result.read(path) for path in sorted(folder.rglob("result.json"))])
    found = confusions(row)
    assert list(found) == ["dense", "compressed"]
    assert found["compressed"].to_numpy().tolist() == [[0, 2, 4], [6, 8, 10], [12, 14, 16]]
    assert list(found["compressed"].columns) == list(ANIMALS)
    next(folder.rglob("finetune.csv")).unlink()
    assert confusions(row) == {}


def test_outputs_beyond_the_classes_may_differ_between_seeds(runs: Callable, job: Callable) -> None:
    folder = runs(*(with_classes(job(seed=seed), {"train": [1, 1, 1]}) for seed in (0, 1)))
    for output, path in zip((3, 4), sorted(folder.rglob("result.json")), strict=True):
        counts_CC = np.eye(5, dtype=int)
        counts_CC[3:] = 0
        counts_CC[0, output] = 2
        confusion.write(confusion.path_in(path.parent, "train"), ANIMALS, counts_CC)
    (row,) = configurations([Result.read(path) for path in sorted(folder.rglob("result.json"))])
    frame = confusions(row)["dense"]
    assert list(frame.columns) == [*ANIMALS, "output 3", "output 4"]
    assert frame.loc["zebra"].tolist() == [2, 0, 0, 2, 2]
    made = LayerResult("conv", macs_before=4, macs_after=1)
    (row,) = configurations([replace(job, layers=[made]) for job in row.finished])
    assert list(confusions(row)) == ["compressed"]  # the network of a single phase that changed a layer


def test_the_whole_report(runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture) -> None:
    shares = {"train": [0.9, 1.0, 0.5], "finetune": [0.8, 0.75, 0.5]}
    folder = runs(*(with_classes(job(ratio=ratio), shares) for ratio in (0.5, 0.3)))
    with_counts(folder, {"train": 5 * np.eye(3, dtype=int), "finetune": np.ones((3, 3), dtype=int)})
    assert main([str(folder), "--classes"], conf=conf) == 0
    report = folder / "report"
    matrices = {f"confusion-macs={ratio}.{kind}" for ratio in (0.5, 0.3) for kind in ("png", "pdf")}
    assert matrices | {"classes.csv"} <= {path.name for path in report.iterdir()}
    assert (report / "confusion-macs=0.5.pdf").read_bytes().startswith(b"%PDF")
    lines = pd.read_csv(report / "classes.csv")
    assert lines["class"].tolist() == [*ANIMALS, *ANIMALS]
    assert lines["configuration"].tolist() == ["macs=0.5"] * 3 + ["macs=0.3"] * 3
    assert lines["accuracy_change_mean"].tolist() == pytest.approx([-0.1, -0.25, 0] * 2, abs=1e-12)
    text = (report / "results.md").read_text()
    assert "### no experiment: macs=0.3: accuracy by class" in text
    ant = [line for line in text.splitlines() if line.startswith("| ant")]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in ant] == [
        ["ant", "100.00", "75.00", "-25.00"]
    ] * 2
    assert r"ant & 100.00 & 75.00 & $-$25.00 \\" in (report / "results.tex").read_text()
    printed = capsys.readouterr().out
    assert "macs=0.5: accuracy by class" in printed
    assert str(report / "classes.csv") in printed
    assert main([str(folder), "--out", str(folder / "plain")], conf=conf) == 0
    assert "accuracy by class" not in capsys.readouterr().out
    assert not (folder / "plain" / "classes.csv").exists()


def test_what_cannot_be_shown_is_told(runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture) -> None:
    many = tuple(f"c{k}" for k in range(121))
    phases = [PhaseResult("train", 0.5, macs=100, class_accuracy=dict.fromkeys(many, 0.5))]
    folder = runs(
        job(epochs=1),
        with_classes(job(epochs=2), {"train": [1, 1, 1]}),
        replace(job(epochs=3), phases=phases, dense=phases[0]),
    )
    path = next(path for path in folder.rglob("result.json") if len(Result.read(path).phases[0].class_accuracy) == 121)
    confusion.write(confusion.path_in(path.parent, "train"), many, np.eye(121, dtype=int))
    assert main([str(folder), "--classes"], conf=conf) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "epochs=1: no accuracy by class and no confusion matrix: a seed was measured before these" in printed
    assert "epochs=2: no confusion matrix: a job's folder lacks confusion/PHASE.csv" in printed
    assert "epochs=3: a confusion matrix of 121 classes is not drawn; up to 120 can be read" in printed
    assert "the 10 of 121 classes of the lowest accuracy" in printed
    assert not list((folder / "report").glob("confusion*"))


def test_long_labels_end_in_a_hash(runs: Callable, job: Callable, conf: Path) -> None:
    folder = runs(*(with_classes(job(row="x" * 300 + end, k=end), {"train": [1, 1, 1]}) for end in "ab"))
    with_counts(folder, {"train": np.eye(3, dtype=int)})
    assert main([str(folder), "--classes"], conf=conf) == 0
    names = [path.stem for path in (folder / "report").glob("confusion*.png")]
    assert len(names) == 2
    assert all(len(name) == 80 + 7 for name in names)


def test_a_damaged_file_of_counts_is_named_and_the_report_goes_on(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(with_classes(job(), {"train": [1, 1, 1]}))
    with_counts(folder, {"train": np.eye(3, dtype=int)})
    next(folder.rglob("train.csv")).write_text("label\n")
    assert main([str(folder), "--classes"], conf=conf) == 0
    assert "no confusion matrix: " in (said := capsys.readouterr().out)
    assert "train.csv is damaged" in said
    assert not list(folder.rglob("confusion-*"))
