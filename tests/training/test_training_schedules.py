import math
from functools import partial

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from lowrank_exp.training.schedules import constant, cosine, one_cycle, steps
from support.cells import cells

TOTAL = 40


def torch_factors(scheduler) -> list[float]:
    """The factors a scheduler of torch gives over TOTAL steps."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    ours = scheduler(optimizer)
    factors = []
    for _ in range(TOTAL):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        ours.step()
    return factors


def factors(schedule) -> list[float]:
    return [schedule(step / TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("final", [0.0, 0.05])
def test_cosine_is_torchs(final):
    theirs = torch_factors(partial(CosineAnnealingLR, T_max=TOTAL, eta_min=final))
    assert factors(partial(cosine, final=final)) == pytest.approx(theirs, abs=1e-12)


def test_cosine_after_warmup():
    ours = factors(partial(cosine, warmup=0.25))
    assert ours[:10] == pytest.approx([step / 10 for step in range(10)], abs=1e-12)
    rest = [(1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert ours[10:] == pytest.approx(rest, abs=1e-12)


@pytest.mark.parametrize("milestones", [(20, 30), (12, 28, 36), ()])
def test_steps_is_torchs(milestones):
    theirs = torch_factors(partial(MultiStepLR, milestones=list(milestones), gamma=0.2))
    ours = factors(partial(steps, at=[mark / TOTAL for mark in milestones], factor=0.2))
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_steps_after_warmup():
    ours = factors(partial(steps, warmup=0.1))
    assert ours == pytest.approx([0, 0.25, 0.5, 0.75] + [1] * 16 + [0.1] * 10 + [0.01] * 10, rel=1e-12)


def test_one_cycle_is_linear_up_and_down():
    up = torch_factors(partial(LinearLR, start_factor=0.1, end_factor=1.0, total_iters=10))[:10]
    down = [1 - 0.8 * step / 30 for step in range(30)]
    assert factors(partial(one_cycle, peak=0.25, start=0.1, final=0.2)) == pytest.approx(up + down, rel=1e-9)


def test_constant():
    assert factors(constant) == [1.0] * TOTAL


@cells("schedule", [constant, cosine, steps, one_cycle])
@cells("progress", [-0.1, 1.1, math.nan])
def test_progress_out_of_range(schedule, progress):
    with pytest.raises(ValueError, match="progress is"):
        schedule(progress)


@cells(
    ("schedule", "message"),
    [
        (partial(cosine, warmup=1.0), r"warmup is 1\.0"),
        (partial(cosine, warmup=-0.1), r"warmup is -0\.1"),
        (partial(cosine, final=1.5), r"final is 1\.5"),
        (partial(steps, at=(0.75, 0.5)), r"at is \[0\.75, 0\.5\]"),
        (partial(steps, at=(0.5, 0.5)), "at is"),
        (partial(steps, at=(80, 120)), "fractions of the fit"),
        (partial(steps, factor=0.0), r"factor is 0\.0"),
        (partial(steps, warmup=0.6), "past the first milestone"),
        (partial(one_cycle, peak=0.0), r"peak is 0\.0"),
        (partial(one_cycle, start=-1.0), r"start is -1\.0"),
    ],
)
def test_arguments_out_of_range(schedule, message):
    with pytest.raises(ValueError, match=message):
        schedule(0.5)
