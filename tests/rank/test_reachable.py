"""The smallest and largest budgets, against all combinations of ranks."""

import itertools

import numpy as np
import pytest

from lowrank_exp.rank import BudgetError, allocate
from lowrank_exp.rank.reachable import Reach, reachable
from support.profiles import by_hand, joined, layer, network


def four():
    """Two convolutions, one that cannot be decomposed, and a linear layer of which only rank 1 is cheaper."""
    return network(
        layer("conv1", 500, 90, 100, 20, np.linspace(3, 1, 8)),
        by_hand("depth", "conv", 150, 30, refusal="its weight is parametrized"),
        layer("conv2", 800, 400, 90, 45, np.linspace(5, 1, 12)),
        layer("fc", 60, 60, 40, 40, [2, 1], kind="linear"),
    )


# MACs of every option, cheapest first, written out from `four`: ranks cheaper than dense.
CONV1, CONV2, FC = [100, 200, 300, 400], [90, 180, 270, 360, 450, 540, 630, 720], [40]


def every(options, alone, dense):
    """Lowest and highest share of all combinations, one by one."""
    shares = [(alone + sum(some)) / dense for some in itertools.product(*options)]
    return min(shares), max(shares)


CASES = {
    "as it is": ({}, [CONV1, CONV2, FC], [[500], [800], [60]], 150, 1510),
    "a layer left alone": ({"rules": {"conv1": None}}, [[500], CONV2, FC], [[500], [800], [60]], 150, 1510),
    "bounds": (
        {"rules": {"conv2": {"min": 3, "max": 5}, "conv1": {"min": 2}}},
        [CONV1[1:], CONV2[2:5], FC],
        [[500], CONV2[2:5], [60]],
        150,
        1510,
    ),
    "a rank by hand": ({"ranks": {"conv2": 10}}, [CONV1, [900], FC], [[500], [900], [60]], 150, 1510),
    "a fixed rank": ({"fixed": {"conv2": 2}}, [CONV1, [180], FC], [[500], [180], [60]], 150, 1510),
    "multiples": ({"multiple": 4}, [CONV1[3:], [360, 720], [60]], [[500], [800], [60]], 150, 1510),
    "convolutions": ({"over": "conv"}, [CONV1, CONV2], [[500], [800]], 150, 1450),
}


@pytest.mark.parametrize("case", CASES)
def test_bounds_are_those_of_all_combinations(case):
    settings, ranks, dearest, alone, dense = CASES[case]
    low, high = every(ranks, alone, dense)
    largest = every([of + more for of, more in zip(ranks, dearest, strict=True)], alone, dense)[1]
    assert reachable(four(), **settings)["macs"] == pytest.approx(Reach(low, high, largest), rel=1e-15)


@pytest.mark.filterwarnings("ignore:conv2. rank 10 costs more than the dense layer")
@pytest.mark.parametrize("settings", [case[0] for case in CASES.values()])
def test_budgets_within_can_be_met_and_those_beyond_cannot(settings):
    for what, (low, _, high) in reachable(four(), **settings).items():
        for share in (low, high):
            if share <= 1:
                plan = allocate(four(), "uniform", **{what: share}, **settings)
                counted = [one for n, one in plan.layers.items() if plan.over == "all" or n != "fc"]
                after, before = (sum(getattr(one, f"{what}_{when}") for one in counted) for when in ("after", "before"))
                assert after / before == pytest.approx(share, rel=0.01)
        with pytest.raises(BudgetError, match=f"the smallest possible is {what}={low:.4f}"):
            allocate(four(), "uniform", **{what: 0.98 * low}, **settings)


def test_weights_are_counted_beside_macs_and_bytes_are_four_times_as_many():
    found = reachable(four())
    # conv1: ranks 1 to 4 of 20 each; conv2: ranks 1 to 8 of 45; fc: rank 1 of 40
    assert found["weights"] == Reach((20 + 30 + 45 + 40) / 580, (80 + 30 + 360 + 40) / 580, 1.0)
    assert found["bytes"] == found["weights"]


def test_the_cheapest_of_several_decompositions_counts():
    several = four()
    other = layer("conv2", 800, 400, 70, 60, np.linspace(5, 1, 11))  # ranks of 70: up to 770
    several["conv2"] = joined(layer("conv2", 800, 400, 90, 45, np.linspace(5, 1, 12)), other)
    assert reachable(several)["macs"] == Reach((100 + 150 + 70 + 40) / 1510, (400 + 150 + 770 + 40) / 1510, 1.0)


def test_what_a_decomposition_does_not_save_takes_no_budget():
    layers = four()
    layers["conv2"] = layer("conv2", 800, 400, 90, 45, np.linspace(5, 1, 12), saves=("bytes",))
    assert list(reachable(layers)) == ["bytes"]
    assert reachable(network(layer("fc", 60, 60, 40, 40, [2, 1], kind="linear")), over="conv") == {}


def test_mistakes_are_those_of_allocate():
    with pytest.raises(ValueError, match="over='fc' is not known"):
        reachable(four(), over="fc")
    with pytest.raises(ValueError, match="'conv9', which does not exist"):
        reachable(four(), rules={"conv9": None})
