"""Operator norms beside those that NumPy finds for the truncated matrices."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from torch import nn

from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.policies.operator_norm import operator_norm
from support.cells import cells
from support.enc_cases import problem
from support.profiles import by_hand, changed, layer, network


def truncated(matrix, rank):
    U, s, V = np.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * s[:rank] @ V[:rank]


def relative_error(matrices, rank):
    """Of the matrix of blocks, each cut to `rank`."""
    blocks, cut = block_diag(*matrices), block_diag(*(truncated(matrix, rank) for matrix in matrices))
    return np.linalg.norm(blocks - cut, 2) / np.linalg.norm(blocks, 2)


@cells("groups", [1, 2, 4])
@cells("eps", [0.15, 0.3, 0.5, 0.8])
def test_the_smallest_rank_with_at_most_that_error(groups, eps):
    torch.manual_seed(groups)
    conv = nn.Conv2d(16, 24, 3, groups=groups)
    with torch.no_grad():
        conv.weight *= torch.linspace(0.1, 1, 24)[:, None, None, None]
    layers = profile(nn.Sequential(conv), torch.zeros(1, 16, 9, 9), "channel_svd")
    matrices = ChannelSVD().matrices(conv).detach().double().numpy()
    layers["0"] = changed(layers["0"], dense_option=False)
    rank = allocate(layers, operator_norm, eps=eps)["0"]
    assert 1 <= rank <= 24 // groups
    assert relative_error(matrices, rank) <= eps
    assert rank == 1 or relative_error(matrices, rank - 1) > eps


def test_a_case_by_hand():
    layers = network(layer("a", 10**6, 1, 10, 1, [4.0, 2.0, 1.0, 1.0, 0.0]))
    for eps, rank in ((0.9, 1), (0.51, 1), (0.5, 1), (0.49, 2), (0.25, 2), (0.24, 4), (0.0, 4)):
        assert allocate(layers, operator_norm, eps=eps).ranks == {"a": rank}


def test_groups_are_one_matrix_of_blocks():
    values = np.array([[8.0, 4.0, 2.0], [1.0, 1.0, 1.0]])
    layers = network(changed(layer("a", 10**6, 1, 10, 1, np.ones(3)), singular_values=values))
    # One rank of every group leaves 4 of 8, two leave 2.
    for eps, rank in ((0.5, 1), (0.3, 2), (0.25, 2), (0.2, 3)):
        assert allocate(layers, operator_norm, eps=eps).ranks == {"a": rank}


def test_a_layer_of_zeros_keeps_rank_one():
    layers = network(layer("zeros", 1000, 1000, 10, 10, np.zeros(90)), layer("b", 1000, 1000, 10, 10, np.ones(90)))
    assert allocate(layers, operator_norm, eps=0.0).ranks == {"zeros": 1, "b": 90}
    assert allocate(layers, operator_norm, macs=0.3).ranks == {"zeros": 1, "b": 59}


def several(seed, layers=5):
    rng = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        full, macs, weights = int(rng.integers(80, 160)), int(rng.integers(50, 300)), int(rng.integers(20, 90))
        values = np.arange(1.0, full + 1) ** -rng.uniform(0.2, 1.2) * rng.uniform(0.1, 10)
        made.append(layer(f"layer{index}", macs * full * 2 // 3, weights * full * 2 // 3, macs, weights, values))
    return network(*made)


@cells("seed", range(4))
@cells("budget", [{"macs": 0.2}, {"macs": 0.5}, {"weights": 0.8}, {"macs": 0.6, "bytes": 0.4}])
def test_every_budget_is_met_and_the_order_of_layers_does_not_matter(budget, seed):
    layers = several(seed)
    order = np.random.default_rng(seed).permutation(len(layers))
    permuted = {name: layers[name] for name in np.array(list(layers))[order].tolist()}
    plan = allocate(layers, operator_norm, **budget)
    assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1.01
    assert allocate(permuted, operator_norm, **budget).ranks == plan.ranks


@cells("seed", range(4))
@cells("macs", [0.25, 0.5, 0.75])
def test_a_budget_gives_the_smallest_eps_and_single_ranks_more(seed, macs):
    """By bisection, as the code of ALDS searches its eps."""
    layers = several(seed)
    given = problem(layers, macs=macs)
    relative = [one.singular_values[0] / one.singular_values[0, 0] for one in layers.values()]

    def options(eps):
        wished = [max(1, int(np.count_nonzero(s > eps))) for s in relative]
        return [c.option_of(rank) for c, rank in zip(given.candidates, wished, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if given.fits(options(middle)) else (middle, high)
    found = [c.ranks.index(rank) for c, rank in zip(given.candidates, operator_norm(given).values(), strict=True)]
    assert given.fits(found)
    assert all(more >= least for more, least in zip(found, options(high), strict=True))
    # The layer that the next smaller eps would raise could not be raised.
    assert any(one == least for one, least in zip(found, options(high), strict=True))
    assert given.met(found)


def test_a_higher_eps_never_raises_a_rank():
    layers = several(0)
    full = [one.full_rank for one in layers.values()]
    plans = [allocate(layers, operator_norm, eps=eps) for eps in np.linspace(0, 0.99, 34).tolist()]
    ranks = np.array([[f if r is None else r for r, f in zip(plan.values(), full, strict=True)] for plan in plans])
    assert (np.diff(ranks, axis=0) <= 0).all()
    assert (ranks[0] == full).all()
    assert (ranks[-1] == 1).all()


def test_multiples_and_rules():
    layers = network(
        layer("a", 1000, 1, 20, 1, 0.9 ** np.arange(60)), layer("b", 1000, 1, 20, 1, 0.95 ** np.arange(60))
    )
    # 0.9^6 = 0.531, 0.9^7 = 0.478; 0.95^13 = 0.513, 0.95^14 = 0.488
    assert allocate(layers, operator_norm, eps=0.5).ranks == {"a": 7, "b": 14}
    assert allocate(layers, operator_norm, eps=0.5, multiple=8).ranks == {"a": 8, "b": 16}
    assert allocate(layers, operator_norm, eps=0.5, rules={"a": {"min": 9}, "b": {"max": 4}}).ranks == {"a": 9, "b": 4}
    assert allocate(layers, operator_norm, eps=0.05).ranks == {"a": 29, "b": None}


def test_without_numbers_the_error_falls_evenly():
    model = nn.Sequential(nn.Conv2d(30, 40, 3, device="meta"), nn.Conv2d(40, 40, 1, device="meta"))
    layers = profile(model, torch.zeros(1, 30, 12, 12, device="meta"), "channel_svd")
    assert [one.full_rank for one in layers.values()] == [40, 40]
    assert allocate(layers, operator_norm, eps=0.66)["0"] == 14  # 1, 39/40 ... 27/40 exceed it
    assert allocate(layers, operator_norm, macs=0.4).remaining("macs") == pytest.approx(0.4, rel=0.01)


def test_without_singular_values_other_policies_are_named():
    bare = by_hand("a", "conv", 100, 100, "tucker2", np.arange(1, 9), np.arange(1, 9), np.zeros((1, 0)),
                        kept=np.linspace(0.1, 1, 8))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"a: .* needs a layer's singular values, and tucker2 has none. Take energy, un"
    ):
        allocate(network(bare), operator_norm, eps=0.1)


@cells(
    ("options", "message"),
    [
        ({}, "the operator_norm policy takes eps or a budget .*, got neither: set the other to null"),
        ({"eps": 0.1, "macs": 0.5}, r"got eps=0.1 and a budget \({'macs': 0.5}\): set the other to null"),
        ({"eps": 1}, r"eps=1 is not in \[0, 1\): 0.1 leaves a tenth"),
        ({"eps": -0.1}, r"eps=-0.1 is not in \[0, 1\)"),
        ({"eps": True}, r"eps=True is not in"),
        ({"eps": False}, r"eps=False is not in"),
        ({"eps": float("nan")}, r"eps=nan is not in"),
        ({"eps": "0.1"}, r"eps='0.1' is not in"),
        ({"share": 0.9}, r"the operator_norm policy has no option \['share'\]; it takes \['eps'\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(several(0), operator_norm, **options)
