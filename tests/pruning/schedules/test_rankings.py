"""How often a schedule scores filters is what it said before the training."""

import torch

from lowrank_exp import models
from lowrank_exp.pruning import remove_
from lowrank_exp.pruning.criteria import L1
from lowrank_exp.pruning.renumber import renumber
from lowrank_exp.pruning.schedules import AGP, SFP, Mask, Molchanov, Moment, OneShot, Remove, RePr, Revive, Schedule
from lowrank_exp.pruning.schedules.view import View

STEPS, EPOCHS = 5, 6
KNOWN = {
    "one shot": (OneShot(epoch=2), 1),
    "agp": (AGP(begin=1, end=4, every=4), 1 + 4),  # at the steps 5, 9, 13, 17 and 20
    "sfp": (SFP(every=4), 2),  # after the epochs 4 and 6
    "sfp from the start": (SFP(every=3, start=True), 3),
    "repr": (RePr(S1=1, S2=1, N=3), 3),
    "the same filters again": (RePr(S1=1, S2=1, N=3, same=True), 1),
    "straight to the target": (Molchanov(criterion=L1(), macs=0.6, filters=None, updates=6), 4),  # 0, 6, 12, 18 of 30
    "until the end": (Molchanov(criterion=L1(), macs=None, accuracy=0.1, filters=1, updates=7), 5),
}


def seen():
    torch.manual_seed(0)
    network = models.vanilla_cnn(convolutions=3, filters=10, in_channels=3, input_size=8, num_classes=4)
    return View.of(network, (3, 8, 8))


def train(schedule, view):
    """What a schedule asks for at every moment is done, without any training."""
    for epoch in range(EPOCHS):
        moments = [Moment(epoch * STEPS, STEPS, EPOCHS, begins=True)]
        moments += [Moment(epoch * STEPS + step, STEPS, EPOCHS) for step in range(1, STEPS + 1)]
        for moment in moments:
            match schedule.due(moment, view):
                case Mask(filters):
                    view.masked = dict(filters)
                    view.first = view.first or view.masked
                case Revive():
                    view.masked = {}
                case Remove(keep):
                    view.groups = renumber(view.groups, remove_(view.network, keep, groups=view.groups).edits)


def test_schedules_score_filters_as_often_as_they_say():
    wrong = {}
    for name, (schedule, expected) in KNOWN.items():
        view = seen()
        foretold = schedule.rankings(view, STEPS, EPOCHS)
        train(schedule, view)
        if not foretold == view.rankings == expected:
            wrong[name] = (foretold, view.rankings, expected)
    assert wrong == {}


def test_single_filters_up_to_a_target_are_counted_nearly():
    """Which channels go, and so how many, is known by their scores only."""
    schedule, view = Molchanov(criterion=L1(), macs=0.7, filters=1, updates=1), seen()
    foretold = schedule.rankings(view, STEPS, EPOCHS)
    train(schedule, view)
    assert view.macs() <= 0.7 * view.dense_macs
    assert 1 < view.rankings < STEPS * EPOCHS
    assert view.rankings - 2 <= foretold <= view.rankings + 2


def test_a_schedule_of_ones_own_need_not_know():
    class Own(Schedule):
        def check(self, view, steps_per_epoch, epochs): ...

        def due(self, moment, view): ...

        def stand_in(self, view):
            return {}

    assert Own().rankings(seen(), STEPS, EPOCHS) is None
