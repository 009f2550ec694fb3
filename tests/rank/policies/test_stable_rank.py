"""Stable ranks beside NumPy's norms, random matrices, and a case by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.rank import Candidate, Problem, allocate, profile
from lowrank_exp.rank.policies.stable_rank import stable_rank, stable_rank_of_noise
from support.cells import cells
from support.enc_cases import problem
from support.profiles import by_hand, changed, layer, network


def falling(rows, columns, power, seed=0):
    """A matrix whose singular values fall as k^-power."""
    rng = np.random.default_rng(seed)
    U, _, V = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return U * np.arange(1.0, len(V) + 1) ** -power @ V


def measured(name, *matrices, dense=10**6, cost=100):
    """A layer decomposed by an SVD of one matrix per group."""
    values = np.stack([np.linalg.svd(matrix, compute_uv=False) for matrix in matrices])
    made = layer(name, dense, dense, cost, cost, values[0])
    return changed(made, singular_values=values, unfoldings=((values, max(matrices[0].shape)),))


def by_norms(matrix):
    return (np.linalg.norm(matrix, "fro") / np.linalg.norm(matrix, 2)) ** 2


def scaled(matrix):
    """Full rank over the stable rank of noise is (1 + sqrt(L / M))^2."""
    L, M = sorted(matrix.shape)
    return (1 + math.sqrt(L / M)) ** 2 * by_norms(matrix)


@pytest.mark.parametrize(
    ("L", "M", "more"), [(16, 144, 0.12), (64, 64, 0.1), (64, 576, 0.04), (128, 1152, 0.03), (300, 300, 0.04)]
)
def test_stable_rank_of_noise_is_that_of_gaussian_matrices(L, M, more):
    rng = np.random.default_rng(0)
    found = np.mean([by_norms(rng.normal(size=(L, M))) for _ in range(10)])
    assert stable_rank_of_noise(L, M) <= found <= (1 + more) * stable_rank_of_noise(L, M)
    assert stable_rank_of_noise(L, M) == pytest.approx(stable_rank_of_noise(M, L))


@cells("power", [0.2, 0.5, 1.0])
@cells(("rows", "columns"), [(40, 90), (64, 64), (200, 30)])
def test_ranks_are_scaled_stable_ranks_rounded_up(rows, columns, power):
    matrix = falling(rows, columns, power)
    layers = network(measured("a", matrix))
    L = min(rows, columns)
    assert allocate(layers, stable_rank).ranks == {"a": min(L, math.ceil(scaled(matrix)))}
    assert allocate(layers, stable_rank, scaled=False).ranks == {"a": math.ceil(by_norms(matrix))}
    assert allocate(layers, stable_rank, times=0.4).ranks == {"a": min(L, math.ceil(0.4 * scaled(matrix)))}
    assert allocate(layers, stable_rank, times=1.7).ranks == {"a": min(L, math.ceil(1.7 * scaled(matrix)))}


def test_a_case_by_hand():
    """A 4 x 16 matrix with the singular values 2, 1, 1, 1 has stable rank 7/4; the scale is (1 + 1/2)^2 = 9/4."""
    s = np.array([2.0, 1.0, 1.0, 1.0])
    layers = network(changed(layer("a", 10**6, 1, 10, 1, s), unfoldings=((s[None], 16),)))
    assert stable_rank_of_noise(4, 16) == pytest.approx(16 / 9)
    for times, plain, rank in ((1.0, 2, 4), (0.5, 1, 2), (0.25, 1, 1), (4 / 7, 1, 3), (8 / 7, 2, 4), (2.0, 4, 4)):
        assert allocate(layers, stable_rank, times=times, scaled=False).ranks == {"a": plain}
        assert allocate(layers, stable_rank, times=times).ranks == {"a": rank}


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_count_each(rank):
    U, V = (np.linalg.qr(np.random.default_rng(rank).normal(size=(n, rank)))[0] for n in (40, 60))
    layers = network(measured("a", 0.37 * U @ V.T))
    assert allocate(layers, stable_rank, scaled=False).ranks == {"a": rank}


def test_a_layer_of_noise_stays_near_its_full_rank_and_its_size_does_not_matter():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(64, 576))
    assert 62 <= allocate(network(measured("a", noise)), stable_rank)["a"] <= 64
    matrix = falling(30, 50, 0.4)
    plans = [allocate(network(measured("a", size * matrix)), stable_rank).ranks for size in (1e-6, 1.0, 1e6)]
    assert plans[0] == plans[1] == plans[2]


def test_the_group_with_the_largest_stable_rank_decides():
    groups = [falling(30, 60, power, seed=n) for n, power in enumerate((1.0, 0.3, 0.6))]
    assert allocate(network(measured("a", *groups)), stable_rank, times=0.5).ranks == {
        "a": math.ceil(0.5 * scaled(groups[1]))
    }


def test_a_layer_of_zeros_keeps_rank_one():
    layers = network(measured("zeros", np.zeros((6, 9))), measured("mixed", np.zeros((6, 9)), np.eye(6, 9)))
    assert allocate(layers, stable_rank, scaled=False).ranks == {"zeros": 1, "mixed": 6}


def test_rules_bound_and_a_rank_that_is_not_cheaper_stays_dense():
    matrix = falling(40, 90, 0.5)
    rank = math.ceil(scaled(matrix))
    layers = network(
        measured("low", matrix),
        measured("high", matrix),
        measured("dear", matrix, dense=100 * rank),
        measured("cheap", matrix, dense=100 * rank + 1),
    )
    plan = allocate(layers, stable_rank, rules={"low": {"max": 4}, "high": {"min": rank + 2}})
    assert plan.ranks == {"low": 4, "high": rank + 2, "dear": None, "cheap": rank}


def test_ranks_rise_to_multiples():
    matrix = falling(40, 90, 0.5)
    rank = math.ceil(scaled(matrix))
    assert rank == 12
    for multiple, raised in ((8, 16), (6, 12), (5, 15), (12, 12), (40, 40)):
        plan = allocate(network(measured("a", matrix)), stable_rank, multiple=multiple)
        assert plan.ranks == {"a": raised}


# Two ranks


def convolution(seed=0, groups=1):
    torch.manual_seed(seed)
    return nn.Conv2d(24, 32, 3, groups=groups)


def tucker_by_norms(weight, times):
    in_unfolding = weight.transpose(1, 0, 2, 3).reshape(weight.shape[1], -1)
    out_unfolding = weight.reshape(weight.shape[0], -1)
    return tuple(min(len(m), math.ceil(times * scaled(m))) for m in (in_unfolding, out_unfolding))


@pytest.mark.parametrize("times", [0.1, 0.3, 0.55])
def test_tucker_has_a_rank_for_each_unfolding(times):
    layers = profile(nn.Sequential(convolution()), torch.zeros(1, 24, 9, 9), "tucker2")
    expected = tucker_by_norms(convolution().weight.detach().double().numpy(), times)
    assert allocate(layers, stable_rank, times=times).ranks == {"0": expected}
    assert stable_rank(problem(layers), times=times) == {"0": expected}


def test_pairs_rise_to_multiples():
    layers = profile(nn.Sequential(convolution()), torch.zeros(1, 24, 9, 9), "tucker2")
    expected = tucker_by_norms(convolution().weight.detach().double().numpy(), 0.3)
    plan = allocate(layers, stable_rank, times=0.3, multiple=8)
    assert plan["0"] == tuple(8 * math.ceil(one / 8) for one in expected)


# Budgets


def several(seed, layers=5):
    rng = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        rows, columns = int(rng.integers(40, 80)), int(rng.integers(60, 200))
        matrix = falling(rows, columns, rng.uniform(0.1, 0.8), seed=int(rng.integers(1000)))
        made.append(measured(f"layer{index}", matrix, dense=rows * columns, cost=rows + columns))
    return network(*made)


@cells("scale", [True, False])
@cells("seed", range(4))
@cells("budget", [{"macs": 0.2}, {"macs": 0.5}, {"weights": 0.8}, {"macs": 0.6, "bytes": 0.4}])
def test_every_budget_is_met_and_the_order_of_layers_does_not_matter(budget, seed, scale):
    layers = several(seed)
    order = np.random.default_rng(seed).permutation(len(layers))
    permuted = {name: layers[name] for name in np.array(list(layers))[order].tolist()}
    plan = allocate(layers, stable_rank, times=None, scaled=scale, **budget)
    assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1.01
    again = allocate(permuted, stable_rank, times=None, scaled=scale, **budget)
    assert again.ranks == plan.ranks
    assert list(again.ranks) == list(permuted)


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_gives_the_ranks_of_one_t_but_for_single_ranks(seed):
    layers = several(seed)
    plan = allocate(layers, stable_rank, times=None, macs=0.35)
    ranks = {name: rank for name, rank in plan.ranks.items() if rank is not None}
    widths = {name: (1 + math.sqrt(w.shape[1] / M)) ** 2 * np.sum(w**2) / w[0, 0] ** 2
              for name in ranks for w, M in layers[name].unfoldings}  # fmt: skip
    assert len(ranks) >= 4
    # Some t lies between (r - 1) / w and r / w of all layers, one rank more for those that were filled up.
    assert max((rank - 2) / widths[name] for name, rank in ranks.items()) <= min(
        rank / widths[name] for name, rank in ranks.items()
    )


def test_t_of_one_comes_first():
    matrices = falling(50, 90, 0.4), falling(60, 80, 0.7, seed=1)
    layers = network(*(measured(n, m, dense=3000) for n, m in zip("ab", matrices, strict=True)))
    plain = allocate(layers, stable_rank)
    assert 0.3 < plain.remaining("macs") < 0.7
    assert allocate(layers, stable_rank, times=None, macs=1.005 * plain.remaining("macs")).ranks == plain.ranks


def test_a_higher_t_never_lowers_a_rank():
    layers = several(0)
    full = [one.full_rank for one in layers.values()]
    plans = [allocate(layers, stable_rank, times=t) for t in np.geomspace(0.01, 100, 40).tolist()]
    ranks = np.array([[f if r is None else r for r, f in zip(plan.values(), full, strict=True)] for plan in plans])
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert (ranks[0] < 3).all()
    assert (ranks[-1] == full).all()


@pytest.mark.parametrize("decomposition", ["spatial_svd", "tucker2"])
@pytest.mark.parametrize("multiple", [None, 4])
def test_a_network_and_its_meta_twin_meet_a_budget(decomposition, multiple):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 48, 3), nn.Conv2d(48, 48, 3, groups=2), nn.Conv2d(48, 40, 3))
    for twin in (model, model.to("meta")):
        example = torch.zeros(1, 16, 12, 12, device=next(twin.parameters()).device)
        layers = profile(twin, example, decomposition)
        plan = allocate(layers, stable_rank, times=None, weights=0.5, multiple=multiple)
        assert plan.remaining("weights") == pytest.approx(0.5, rel=0.01)
        if multiple:
            assert all(n % 4 == 0 for r in plan.values() if r is not None for n in (r if isinstance(r, tuple) else [r]))


def test_under_a_budget_pairs_follow_the_unfolding_that_asks_first():
    """Widths 2 and 8 on the ladder (1, 1), (2, 2), (3, 3), (4, 4): the second number asks for the next rung first."""
    s_in, s_out = np.array([[1.0, 1.0, 0.0, 0.0]]), np.ones((1, 8))
    kept = np.linspace(0.2, 1, 4)
    pairs = by_hand(
        "a", "conv", 50, 50, "tucker2", np.arange(1, 5) * 10, np.arange(1, 5) * 10, np.zeros((1, 0)),
        ranks=((1, 1), (2, 2), (3, 3), (4, 4)), kept=kept, unfoldings=((s_in, 8), (s_out, 8)),
    )  # fmt: skip
    one = changed(layer("b", 200, 200, 1, 1, np.ones(100)), unfoldings=((np.ones((1, 100)), 100),))
    # Rungs (r - 1) / 8 of the pairs and ranks (r - 1) / 100 of the other: below t = 1/4 they cost 20 and 25.
    plan = allocate(network(pairs, one), stable_rank, times=None, scaled=False, macs=45 / 250)
    assert plan.ranks == {"a": (2, 2), "b": 25}


def test_without_numbers_the_middle_of_the_options_stands_in():
    model = nn.Sequential(nn.Conv2d(16, 24, 3, device="meta"))
    example = torch.zeros(1, 16, 9, 9, device="meta")
    for decomposition in ("channel_svd", "tucker2"):
        layers = profile(model, example, decomposition)
        ranks = problem(layers).candidates[0].ranks
        assert allocate(layers, stable_rank).ranks == {"0": ranks[(len(ranks) - 1) // 2]}


def test_a_real_layer_and_its_matrix():
    conv = convolution(2, groups=2)
    layers = profile(nn.Sequential(conv), torch.zeros(1, 24, 9, 9), "channel_svd")
    matrices = ChannelSVD().matrices(conv).detach().double().numpy()
    assert allocate(layers, stable_rank, times=0.5).ranks == {"0": math.ceil(0.5 * max(map(scaled, matrices)))}


@cells(
    ("options", "message"),
    [
        ({"macs": 0.5}, r"takes times or a budget .*, got times=1.0 and a budget \({'macs': 0.5}\): set the other to"),
        ({"times": None}, "the stable_rank policy takes times or a budget .*, got neither"),
        ({"times": 0}, "times=0 is not a positive number"),
        ({"times": -1.0}, "times=-1.0 is not a positive number"),
        ({"times": True}, "times=True is not a positive number"),
        ({"times": math.nan}, "times=nan is not a positive number"),
        ({"times": math.inf}, "times=inf is not a positive number"),
        ({"times": "1"}, "times='1' is not a positive number"),
        ({"scaled": 1}, "scaled=1 is neither true nor false"),
        ({"share": 0.9}, r"the stable_rank policy has no option \['share'\]; it takes \['scaled', 'times', 'round'\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(network(measured("a", falling(10, 20, 0.5))), stable_rank, **options)


def test_a_decomposition_without_unfoldings_is_named():
    bare = layer("conv", 10**6, 1, 10, 1, np.ones(5))
    given = Problem((Candidate(bare, (1, 2, None)),), {"macs": 0}, {"macs": 10**6}, problem(network(bare)).budget)
    with pytest.raises(
        ValueError, match=r"conv: the stable_rank policy needs the singular values .* spatial_svd has no"
    ):
        stable_rank(given)
