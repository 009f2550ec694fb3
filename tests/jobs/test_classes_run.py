"""Accuracy by class of a whole job: its names, its counts, the store, and what was stored before there were any."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, recall_score

from lowrank_exp import load
from lowrank_exp.data import Digits
from lowrank_exp.files import confusion
from lowrank_exp.files.results import Result
from lowrank_exp.report.cli import main as report
from support.smoke import SMOKE

JOB = (*SMOKE, "rank=uniform")
PHASES = ["train", "factorize", "finetune"]


def only_job(outputs: Path) -> Path:
    (folder,) = (path.parent for path in (outputs / "runs").glob("*/result.json"))
    return folder


def test_a_job_names_its_classes_and_what_they_were_taken_for(command, tmp_path, capsys):
    assert command(*JOB) == 0
    folder = only_job(tmp_path / "outputs")
    result = Result.read(folder / "result.json")
    assert [phase.name for phase in result.phases] == PHASES
    assert sorted(path.stem for path in (folder / "confusion").iterdir()) == sorted(PHASES)

    data = Digits(mean=[0.305], std=[0.376])
    network = load(folder / "model.pt")
    data.adapt(network.input_shape)
    data.setup()
    images, labels = (torch.cat(parts) for parts in zip(*data.test_loader(512), strict=True))
    with torch.no_grad():
        predictions = network.eval()(images).argmax(1)
    last = result.phases[-1]
    assert list(last.class_accuracy) == list("0123456789")
    recalls = recall_score(labels, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(list(last.class_accuracy.values()), recalls, rtol=0, atol=1e-15)
    names, counts_CC = confusion.read(folder / "confusion/finetune.csv")
    assert names == tuple("0123456789")
    np.testing.assert_array_equal(counts_CC, confusion_matrix(labels, predictions))

    worst = min(last.class_accuracy, key=last.class_accuracy.get)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("weakest class"))
    assert line.startswith(f"weakest class: {worst}, {last.class_accuracy[worst]:.2%} of its test images recognised")
    assert line.endswith(f"; after train {result.phases[0].class_accuracy[worst]:.2%}")


def test_stored_phases_bring_their_counts_and_older_ones_are_read_without_them(command, tmp_path, capsys):
    outputs = tmp_path / "outputs"
    assert command(*JOB, "method=train") == 0
    folder = only_job(outputs)
    first = Result.read(folder / "result.json")
    counts = {path.name: path.read_bytes() for path in (folder / "confusion").iterdir()}
    shutil.rmtree(folder)
    assert command(*JOB, "method=train") == 0
    again = Result.read(folder / "result.json").phases
    assert ([phase.stored for phase in first.phases], [phase.stored for phase in again]) == ([False], [True])
    assert [replace(phase, stored=False) for phase in again] == first.phases
    assert {path.name: path.read_bytes() for path in (folder / "confusion").iterdir()} == counts

    for path in (outputs / "store").glob("*/outcome.json"):
        outcome = json.loads(path.read_text())
        del outcome["scores"]["class_accuracy"], outcome["digest"], outcome["files"], outcome["conditions"]
        path.write_text(json.dumps(outcome))
        (path.parent / "confusion.csv").unlink()
    shutil.rmtree(folder)
    written = {path: path.stat().st_mtime_ns for path in (outputs / "store").glob("*/network.pt")}
    capsys.readouterr()
    assert command(*JOB, "method=train") == 0
    assert written == {path: path.stat().st_mtime_ns for path in (outputs / "store").glob("*/network.pt")}
    earlier = Result.read(folder / "result.json")
    assert [phase.class_accuracy for phase in earlier.phases] == [{}]
    assert [(p.accuracy, p.loss, p.key) for p in earlier.phases] == [(p.accuracy, p.loss, p.key) for p in first.phases]
    assert not (folder / "confusion").exists()
    assert "weakest class" not in capsys.readouterr().out
    assert report([str(outputs / "runs"), "--classes"]) == 0
    assert "a seed was measured before these were recorded" in " ".join(capsys.readouterr().out.split())


def test_a_network_with_more_outputs_than_classes(command, tmp_path):
    assert command(*JOB, "method=train", "model.num_classes=12") == 0
    folder = only_job(tmp_path / "outputs")
    (phase,) = Result.read(folder / "result.json").phases
    assert list(phase.class_accuracy) == list("0123456789")
    assert confusion.read(folder / "confusion/train.csv")[0][:10] == tuple("0123456789")
