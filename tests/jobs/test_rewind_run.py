"""Rewinding and distillation from the command line."""

import re

import pytest
import torch

from lowrank_exp.artifact import load
from lowrank_exp.edits import KeepChannels, edits_of
from lowrank_exp.training.schedules import cosine
from support.method_jobs import JOB, goes_on_alike, job

FOUR = (*JOB, "method=rewind", "training.epochs=4", "training.schedule.warmup=0", "method.phases.rewind.at=0.5")
KEPT = "method.phases.train.snapshots=[0,0.5]"


def store(outputs, phase):
    (folder,) = (path for path in (outputs / "store").glob(f"{phase}-*") if path.is_dir())
    return folder


@pytest.mark.slow
def test_weights_of_half_time_go_on_at_the_rates_of_half_time(command, tmp_path):
    outputs = tmp_path / "outputs"
    assert command(*FOUR, KEPT) == 0
    result, histories, folder = job(outputs)
    assert [phase.name for phase in result.phases] == ["train", "prune", "remove", "rewind"]
    assert [line["learning_rate"] for line in histories["train"]] == pytest.approx(
        [0.05 * cosine(epoch / 4) for epoch in range(4)]
    )
    assert [line["learning_rate"] for line in histories["rewind"]] == pytest.approx(
        [0.05 * cosine(epoch / 4) for epoch in (2, 3)]
    )
    kept = sorted(path.name for path in store(outputs, "train").glob("epoch-*.pt"))
    assert kept == ["epoch-0.pt", "epoch-2.pt"]
    small = load(folder / "model.pt")
    assert small.conv1.out_channels == 5


def test_rewound_weights_are_those_of_the_channels_that_are_left(command, tmp_path):
    outputs = tmp_path / "outputs"
    assert command(*FOUR, KEPT, "training.optimizer.lr=1e-30", "training.optimizer.weight_decay=0") == 0
    _, _, folder = job(outputs)
    small, half = load(folder / "model.pt"), torch.load(store(outputs, "train") / "epoch-2.pt", weights_only=True)
    kept = {edit.layer: edit for edit in edits_of(small) if isinstance(edit, KeepChannels)}
    rows, columns = list(kept["conv2"].out), list(kept["conv2"].inputs)
    assert torch.equal(small.conv2.weight, half["conv2.weight"][rows][:, columns])
    assert torch.equal(small.fc1.weight, half["fc1.weight"][:, list(kept["fc1"].inputs)])


@pytest.mark.slow
def test_learning_rates_alone(command, tmp_path):
    assert command(*FOUR, "method.phases.rewind.weights=false", "method.phases.train.snapshots=[]") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert len(histories["rewind"]) == 2
    assert not list(store(tmp_path / "outputs", "train").glob("epoch-*.pt"))
    assert result.phases[-1].macs == result.phases[-2].macs


def test_a_teacher_from_an_earlier_phase(command, tmp_path):
    options = (*JOB, "method.order=[train,finetune]")
    distill = "method.phases.finetune.distill={teacher: train, alpha: 1.0}"
    initial = "method.phases.finetune.distill={teacher: initial, alpha: 1.0}"
    found = []
    for turn, more in enumerate(([], [distill], [initial])):
        outputs = tmp_path / str(turn)
        assert command(*options, *more, outputs=outputs) == 0
        result, histories, _ = job(outputs)
        found.append(histories["finetune"][0]["train_loss"])
        assert [phase.name for phase in result.phases] == ["train", "finetune"]
    assert len(set(found)) == 3


@pytest.mark.slow
def test_goes_on_after_a_kill(command, tmp_path, monkeypatch):
    """Killed after the weights were kept, and in the second training, in which there is a teacher."""
    teacher = "training.distill={teacher: initial, alpha: 0.5}"
    assert command(*FOUR, KEPT, teacher, outputs=tmp_path / "alone") == 0
    goes_on_alike(command, (*FOUR, KEPT, teacher), tmp_path, monkeypatch, [3, 5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.phases.train.snapshots=[]"], r"at 0.5 of the training train are not kept: set .*snapshots=\[0.5\]"),
        ([KEPT, "method.phases.rewind.at=1"], r"rewind.at=1 is refused: .*\[0, 1\)"),
        ([KEPT, "method.phases.rewind.phase=dense"], "phase rewind asks for the network of 'dense'; there is: initial"),
        ([KEPT, "training.distill={teacher: finetune}"], "phase train asks for the network of 'finetune'; there is"),
        (["method.phases.train.snapshots=[2]"], r"snapshots=\[2\] is refused"),
    ],
)
def test_mistakes_end_before_any_training(command, capsys, tmp_path, options, message):
    assert command(*FOUR, *options) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list((tmp_path / "outputs").glob("store/*/outcome.json"))
