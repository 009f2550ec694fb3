"""What phases tell of themselves without being run, in whole dry runs; and a phase that tells nothing."""

import copy

import pytest
import torch
from torch import nn

from lowrank_exp import phases
from lowrank_exp.job import dry_run
from lowrank_exp.job.console import Console
from lowrank_exp.phases import Done, Phase
from lowrank_exp.text.estimate import Estimate
from support.smoke import SMOKE

PARTS = {  # by the arguments of a job: what takes time in some of its phases
    ("method=agree",): {"agree": ["the oracle, a pass over 143 images for each of 22 filters", "13 criteria"]},
    ("method=lc", "method.phases.lc.steps=3"): {
        **{"lc": ["3 L steps of 1 epochs, 21 steps each", "3 C steps and the factors"]},
    },
    ("method=cuttlefish", "training.epochs=4", "method.phases.until_settled.latest=0.75"): {
        "until_settled": ["3 epochs, 21 steps each", "stable ranks after each of 3 epochs"],
        "train_on": ["1 epochs, 21 steps each"],
    },
    ("method=rewind", "training.epochs=3", "method.phases.train.snapshots=[0.4]", "method.phases.rewind.at=0.4"): {
        **{"prune": ["1 rankings of filters"], "remove": ["silent channels taken out"]},
        **{"rewind": ["2 epochs, 21 steps each"]},
    },
    ("control=dense_trained_on", "finetune.epochs=3"): {"dense_trained_on": ["3 epochs, 21 steps each"]},
    ("control=dense_by_width", "finetune.epochs=3"): {"dense_by_width": ["4 epochs, 21 steps each"]},
    ("control=from_scratch", "method.phases.from_scratch.epochs=5"): {"from_scratch": ["5 epochs, 21 steps each"]},
    ("method=taylor", "pruning/criterion=oracle", "pruning.updates=3"): {
        "prune": ["1 epochs, 21 steps each", "6 rankings, a pass over 143 images for each of 22 filters"],
    },
    ("method=taylor", "pruning.updates=3", "method.phases.prune.images=200"): {
        "prune": ["1 epochs, 21 steps each", "6 rankings, 200 images each"],
    },
}


@pytest.mark.slow
def test_every_kind_of_phase_tells_what_takes_time(command, monkeypatch):
    wrong, estimates = {}, []
    monkeypatch.setattr(dry_run, "forward_seconds", lambda *_: 0.001)
    monkeypatch.setattr(Console, "estimates", lambda console, found, conditions: estimates.extend(found))
    for job, expected in PARTS.items():
        estimates.clear()
        assert command(*SMOKE, *job, "dry_run=true") == 0, job
        told = {one.phase: [what for what, seconds in one.parts if seconds > 0] for one in estimates}
        unknown = [one.unknown for one in estimates if one.unknown and one.phase in expected]
        differing = {name: told.get(name) for name, parts in expected.items() if told.get(name) != parts}
        if unknown or differing:
            wrong[job] = (unknown, differing)
    assert wrong == {}


def test_all_phases_of_the_package_tell():
    ours = [getattr(phases, name) for name in phases.__all__]
    kinds = [one for one in ours if issubclass(one, Phase) and one is not Phase]
    assert len(kinds) == 19
    assert [kind.__name__ for kind in kinds if kind.rehearse is Phase.rehearse] == []


@pytest.mark.slow
def test_the_teacher_is_part_of_a_distillation(command, monkeypatch):
    copies, calls = [], []

    def watched(network):
        made = copy.deepcopy(network)
        made.register_forward_hook(lambda *_: calls.append(len(copies)))
        copies.append(made)
        return made

    monkeypatch.setattr(dry_run, "copy_network", watched)
    distill = "finetune.distill={teacher: train, temperature: 4.0, alpha: 0.9}"
    assert command(*SMOKE, distill, "dry_run=true") == 0
    assert len(copies) == 2  # what the first phase gets, and the teacher
    assert calls.count(2) > 2


class Quiet(Phase):
    """Halves the filters of the first layer, and tells nothing."""

    def walk_(self, network, example):
        network[0] = nn.Conv2d(1, 2, 3)

    def run_(self, network, setting):
        return Done()


def test_a_phase_that_tells_nothing_has_an_unknown_cost():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))

    class Setting:
        example = torch.zeros(1, 1, 8, 8)

    rehearsal = Quiet().rehearse(network, Setting())
    assert (rehearsal.parts, rehearsal.unknown, rehearsal.same_weights) == ((), "Quiet itself", False)
    after = (("accuracy", 3.0), ("latency", 1.0))
    estimate = Estimate("quiet", tuple(rehearsal.parts), rehearsal.unknown, after)
    assert (estimate.time, estimate.seconds, estimate.finished) == ("unknown", 4.0, False)
    assert estimate.dominant == "accuracy; without Quiet itself"
