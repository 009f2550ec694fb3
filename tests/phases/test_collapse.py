"""What is said of networks that a phase has ruined, and of penalties that outweigh the task."""

import math

import pytest
from scipy.stats import binom

from lowrank_exp.phases.collapse import Measured, outweighed, ruined
from support.cells import cells
from support.smoke import SMOKE

EVEN = [36] * 10


def test_chance_is_what_a_network_reaches_that_knows_nothing():
    """Against the binomial distribution: of 1,000 such networks one or two lie above."""
    for per_class in (EVEN, [500, 500], [900, 60, 40]):
        n, p = sum(per_class), max(per_class) / sum(per_class)
        chance = Measured("test", 0.5, per_class).chance
        assert 1e-4 < binom.sf(math.floor(chance * n), n, p) < 5e-3


@cells(
    ("accuracy", "before", "learnt", "told"),
    [
        (0.1, {"train": (0.97,)}, True, "10.00% of the test images are recognised, which is chance for 10 classes"),
        (0.14, {"train": (0.97,), "sparse": (0.1,)}, True, "; it was 97.00% after train"),
        (0.1, {}, True, "chance for 10 classes (up to 14.74% of 360 images). Try this"),
        (0.1, {"evaluate": (0.12,)}, True, "(up to 14.74% of 360 images). Try this"),
        (0.1, {}, False, None),  # nobody has taught it anything
        (0.1, {"evaluate": (0.12,)}, False, None),
        (0.16, {"train": (0.97,)}, True, None),
        (0.97, {"train": (0.98,)}, True, None),
        (0.1, {"train": (None,)}, False, None),
    ],
)
def test_a_network_at_chance(accuracy, before, learnt, told):
    said = ruined([Measured("test", accuracy, EVEN)], before, learnt, "Try this")
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


def test_the_remedy_is_told_once_and_validation_images_count_too():
    test, val = Measured("test", 0.3, EVEN), Measured("validation", 0.1, [14] * 10)
    (first,) = ruined([test, val], {"train": (0.5, 0.9)}, True, "Try this")
    assert first.startswith("10.00% of the validation images")
    assert first.endswith("it was 90.00% after train. Try this")
    (again,) = ruined([test, val], {"train": (0.5, 0.9), "sparse": (0.3, 0.1)}, True, "Try this")
    assert again.endswith("it was 90.00% after train")


@pytest.mark.parametrize(("accuracy", "per_class"), [(1.0, [40]), (1.0, [2, 2]), (0.5, [2, 2]), (0.99, [99, 1])])
def test_of_too_few_images_nothing_is_said(accuracy, per_class):
    assert ruined([Measured("test", accuracy, per_class)], {"train": (1.0,)}, True, "Try this.") == []


def test_imbalanced_classes_make_chance_higher():
    (said,) = ruined([Measured("test", 0.9, [90, 10])], {"train": (0.99 + 0.01,)}, True, "")
    assert "chance for 2 classes (up to 99.00% of 100 images)" in said
    assert ruined([Measured("test", 0.995, [90, 10])], {"train": (1.0,)}, True, "") == []


def test_a_training_at_chance_is_told_what_to_try_in_both_directions(command, tmp_path, capsys):
    job = (*SMOKE, "method=train", "training.optimizer.lr=0", "training.augment=false")
    assert command(*job) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "recognised, which is chance for 10 classes" in said
    assert "Lower the learning rate of this training; where its loss has hardly fallen, raise the learning rate" in said


def line(loss: float, **penalties: float) -> dict[str, float]:
    return {"train_loss": loss} | {f"penalty_{name}": value for name, value in penalties.items()}


def test_penalties_that_outweigh_the_task_are_told_with_the_largest():
    history = [line(0.09, l1=117.5, orthogonality=0.04), line(2.1, l1=23.0, orthogonality=0.12)]
    (said,) = outweighed(history, lambda progress: {"l1": 0.3, "orthogonality": 1.0}, 2, 10)
    assert "35.3 beside a loss of 0.09 in epoch 0 (l1 alone 35.2;" in said
    assert "has a loss of 2.30). Lower regularizer.terms.l1.weight" in said
    assert outweighed(history[1:], lambda progress: {"l1": 0.3, "orthogonality": 1.0}, 2, 10) == []  # 7 beside 2


def test_small_penalties_beside_a_smaller_loss_are_not_told():
    weak = [line(0.001, l1=1.0)]
    assert outweighed(weak, lambda progress: {"l1": 1.1}, 1, 10) == []  # less than half of log 10
    assert len(outweighed(weak, lambda progress: {"l1": 1.2}, 1, 10)) == 1
    assert outweighed(weak, lambda progress: {"l1": 1.2}, 1, 100) == []
    assert outweighed([line(0.001)], lambda progress: {"l1": 1e9}, 1, 10) == []  # it did not act in that epoch


def test_the_weight_is_that_of_the_epoch():
    history = [line(0.01, l1=10.0)] * 4
    (said,) = outweighed(history, lambda progress: {"l1": progress}, 4, 10)
    assert "8.75 beside a loss of 0.01 in epoch 3" in said
