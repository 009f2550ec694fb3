import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.multiples import at_multiples
from support.cells import cells
from support.profiles import changed, layer, network


def profiles(decomposition, device="cpu"):
    torch.manual_seed(0)
    channels = [3, 24, 40, 48, 64, 72, 80]
    convolutions = [nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(channels)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(80 * 16, 10))
    return profile(model.to(device), torch.zeros(1, 3, 4, 4, device=device), decomposition)


BUDGETED = [
    ("uniform", {}),
    ("energy", {}),
    ("enc_map", {}),
    ("enc_model", {"metric": "A_p"}),
    ("knapsack", {}),
    ("knapsack", {"metric": "energy"}),
]


@cells(("policy", "options"), BUDGETED)
@cells("decomposition", ["spatial_svd", "channel_svd", "tucker2"])
@cells("multiple", [4, 8])
def test_ranks_are_multiples_and_the_budget_is_met_anew(policy, options, decomposition, multiple):
    layers = profiles(decomposition)
    plan = allocate(layers, policy, macs=0.6, multiple=multiple, over="conv", **options)
    chosen = {name: rank for name, rank in plan.ranks.items() if rank is not None}
    assert chosen
    for name, rank in chosen.items():
        numbers, full = np.atleast_1d(rank), np.atleast_1d(layers[name].full_rank)
        assert all(n % multiple == 0 or n == f < multiple for n, f in zip(numbers, full, strict=True))
    convolutions = [plan.layers[name] for name, one in layers.items() if one.kind == "conv"]
    after, before = (sum(getattr(p, what) for p in convolutions) for what in ("macs_after", "macs_before"))
    assert after / before == pytest.approx(0.6, rel=0.01)


def test_the_optimum_among_multiples_is_found_by_brute_force():
    """Costs 10 a + 6 b up to 128, ranks 4, 8, 12 of a and 4, 8 ... 20 of b; the least squared error."""
    a = layer("a", 150, 150, 10, 10, np.linspace(3, 2, 13))
    b = layer("b", 140, 140, 6, 6, np.linspace(2, 1, 21))
    plan = allocate(network(a, b), "knapsack", macs=128 / 290, multiple=4)
    options = [
        (a.error[r - 1] + b.error[s - 1], r, s) for r in (4, 8, 12) for s in (4, 8, 12, 16, 20) if 10 * r + 6 * s <= 128
    ]
    assert (plan["a"], plan["b"]) == min(options)[1:]


def test_what_is_known_of_a_rank_stays_its_own():
    one = layer("a", 1000, 1000, 10, 10, np.linspace(3, 1, 21))
    measured = changed(one, sampled_ranks=(5, 21), sampled_accuracy=np.array([0.5, 1.0]), sensitivity=np.arange(21.0))
    cut = at_multiples(measured, 8)
    assert cut.ranks == (8, 16)
    assert cut.rank_macs.tolist() == [80, 160]
    assert cut.rank_bytes.tolist() == [320, 640]
    assert cut.energy.tolist() == one.energy[[7, 15]].tolist()
    assert cut.nuclear.tolist() == np.cumsum(np.linspace(3, 1, 21))[[7, 15]].tolist()
    assert cut.sensitivity.tolist() == [7.0, 15.0]
    assert cut.sampled_ranks == (8, 16)
    assert 0.5 < cut.sampled_accuracy[0] < cut.sampled_accuracy[1] < 1.0


def test_pairs_are_raised_to_multiples_at_their_own_cost_and_energy():
    layers = profiles("tucker2")
    cut = at_multiples(layers["0"], 8)
    assert all(r == 3 and q % 8 == 0 for r, q in cut.ranks)  # three input channels cannot be a multiple of 8
    cut = at_multiples(layers["1"], 8)
    assert cut.full_rank == (24, 40)
    for rung, rank in enumerate(cut.ranks):
        assert cut.rank_macs[rung] == layers["1"].cost(rank).macs
        assert cut.energy[rung] == pytest.approx(layers["1"].energy_at([rank])[0], abs=1e-12)
    assert np.all(np.diff(cut.energy) > 0)


def test_on_the_meta_device_too():
    layers = profiles("tucker2", "meta")
    plan = allocate(layers, "uniform", macs=0.6, multiple=4)
    assert plan.remaining("macs") == pytest.approx(0.6, rel=0.01)


def test_a_layer_without_such_a_rank_stays_dense_and_says_why():
    layers = network(layer("a", 1000, 1000, 60, 60, np.ones(20)), layer("b", 100, 100, 15, 15, np.ones(5)))
    plan = allocate(layers, "uniform", macs=580 / 1100, multiple=8)
    assert plan["b"] is None
    assert plan.layers["b"].reason == "no multiple of 8 up to its full rank 5"
    assert plan["a"] == 8


def test_rules_hold_beside_multiples_and_ranks_by_hand_are_obeyed():
    layers = network(*(layer(name, 1000, 1000, 10, 10, np.linspace(2, 1, 100)) for name in "abc"))
    plan = allocate(layers, "uniform", macs=0.5, multiple=8, rules={"a": {"min": 60, "max": 70}}, fixed={"b": 13})
    assert plan["a"] == 64
    assert plan["b"] == 13
    assert plan["c"] % 8 == 0
    with pytest.raises(ValueError, match="the rule for a leaves none of its ranks"):
        allocate(layers, "uniform", macs=0.5, multiple=8, rules={"a": {"min": 9, "max": 15}})


@pytest.mark.parametrize("multiple", [0, -8, True, 8.0, "8"])
def test_a_multiple_is_a_positive_integer(multiple):
    with pytest.raises(ValueError, match="is not a positive integer"):
        allocate(profiles("channel_svd"), "uniform", macs=0.5, multiple=multiple)
