"""Ranks of several numbers, bytes, and rungs: policies see a ladder, plans and files the ranks on it."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ProductQuantization, Tucker2
from lowrank_exp.rank import Plan, allocate, profile
from support.cells import cells


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 1))


IMAGE = torch.zeros(1, 4, 9, 9)


@pytest.fixture
def tucker():
    return profile(network(), IMAGE, "tucker2")


def weights_at(rank, I, O, K, G=1):
    R3, R4 = rank
    return G * (I * R3 + K * R3 * R4 + O * R4)


def test_a_profile_of_pairs(tucker):
    first = tucker["0"]
    assert first.ranks[0] == (1, 1)
    assert first.full_rank == (4, 8)
    assert first.rungs == len(first.ranks) == 11  # one rank more at every rung
    assert first.rank_weights.tolist() == [weights_at(rank, 4, 8, 9) for rank in first.ranks]
    assert first.rank_bytes.tolist() == [4 * w for w in first.rank_weights]
    np.testing.assert_allclose(first.energy, Tucker2().energies(network()[0], first.ranks))
    assert [len(values[0]) for values, _ in first.unfoldings] == [4, 8]
    assert [side for _, side in first.unfoldings] == [72, 36]


def test_the_cost_of_a_pair_off_the_ladder(tucker):
    first = tucker["0"]
    assert (4, 1) not in first.ranks
    cost = first.cost((4, 1))
    assert (cost.weights, cost.bytes, cost.macs) == (weights_at((4, 1), 4, 8, 9), 4 * 60, 81 * 60)
    with pytest.raises(ValueError, match=r"^0: rank \[5, 1\] is above the full rank \[4, 8\]"):
        first.cost((5, 1))
    with pytest.raises(ValueError, match="0: rank must be 2 integers for tucker2"):
        first.cost(3)


@cells("policy", ["uniform", "energy", "enc_map"])
@cells("budget", [{"macs": 0.5}, {"weights": 0.4}, {"bytes": 0.6}])
def test_budgets_are_met_by_pairs(policy, budget):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 24, 3))
    plan = allocate(profile(wide, torch.zeros(1, 16, 12, 12), "tucker2"), policy, **budget)
    ((what, fraction),) = budget.items()
    assert 0.99 * fraction <= plan.remaining(what) <= 1.01 * fraction
    assert all(rank is None or len(rank) == 2 for rank in plan.ranks.values())


def test_pairs_by_hand_and_by_rules_and_in_a_file(tucker, tmp_path):
    plan = allocate(tucker, "fixed", ranks={"0": [2, 3]}, rules={"2": [1, 2], "3": None})
    assert plan.ranks == {"0": (2, 3), "2": (1, 2), "3": None}
    assert plan.layers["2"].weights_after == weights_at((1, 2), 4, 4, 9, G=2)
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == plan
    assert "rank:\n    - 2\n    - 3" in (tmp_path / "plan.yaml").read_text()


def test_bounds_hold_for_every_number_of_a_rank(tucker):
    plan = allocate(tucker, "uniform", macs=0.5, rules={"0": {"min": 2, "max": 3}})
    assert all(2 <= number <= 3 for number in plan["0"])
    # The input rank cannot be above 4: a lowest of 6 asks 6 of the other one alone.
    plan = allocate(tucker, "uniform", macs=0.9, rules={"0": {"min": 6}})
    assert plan["0"] is None or (plan["0"][0] == 4 and plan["0"][1] >= 6)


def test_a_budget_of_bytes_for_codebooks():
    kind = ProductQuantization(pointwise_block=2)
    layers = profile(network(), IMAGE, {"conv": kind})
    plan = allocate(layers, "uniform", bytes=0.3)
    assert 0.297 <= plan.remaining("bytes") <= 0.303
    assert plan.remaining("macs") == plan.remaining("weights") == 1.0
    modules = dict(network().named_modules())
    for name, rank in plan.ranks.items():
        if rank is not None:
            assert plan.layers[name].bytes_after == kind.rank_bytes(modules[name], [rank])[0]


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"weights": 0.5}, {"bytes": 0.5, "macs": 0.5}])
def test_codebooks_save_nothing_but_bytes(budget):
    layers = profile(network(), IMAGE, {"conv": ProductQuantization(pointwise_block=2)})
    with pytest.raises(ValueError, match=r"product_quantization does not save .*: set .* to null and give bytes"):
        allocate(layers, "uniform", **budget)


def test_evbmf_gives_pairs_off_the_ladder():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2d(16, 24, 3))
    planted = np.einsum(
        "or,is,rshw->oihw", rng.normal(size=(24, 5)), rng.normal(size=(16, 3)), rng.normal(size=(5, 3, 3, 3))
    )
    model[0].weight.data = torch.from_numpy(planted + 0.01 * rng.normal(size=planted.shape)).float()
    layers = profile(model, torch.zeros(1, 16, 9, 9), "tucker2")
    assert allocate(layers, "evbmf").ranks == {"0": (3, 5)}
