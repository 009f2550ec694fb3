import numpy as np
import pytest
from profiles import enc_vgg16, layer, network

from lowrank_exp.rank import allocate


def spectra(seed=0):
    """Three layers with falling singular values, the last one linear."""
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.gamma(1.0, size=n))[::-1] for n in (12, 20, 30)]
    return network(
        layer("a", 5000, 300, 300, 20, values[0]),
        layer("b", 9000, 600, 400, 25, values[1]),
        layer("c", 900, 900, 25, 25, values[2], kind="linear"),
    )


def wished(profile, share):
    """The smallest rank that keeps `share` of the squared singular values, by NumPy's cumulative sum."""
    squared = profile.singular_values[0] ** 2
    return next(r for r in range(1, len(squared) + 1) if np.cumsum(squared)[r - 1] >= share * squared.sum())


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 0.9, 0.95])
def test_share_gives_the_smallest_ranks_that_keep_it(share):
    layers = spectra()
    plan = allocate(layers, "energy", share=share)
    for name, profile in layers.items():
        rank = wished(profile, share)
        cheaper = profile.rank_macs[rank - 1] < profile.macs
        assert plan[name] == (rank if cheaper else None)


def test_a_higher_share_never_keeps_less():
    plans = [allocate(spectra(), "energy", share=share) for share in np.linspace(0.05, 1, 20).tolist()]
    full = [p.full_rank for p in spectra().values()]
    ranks = np.array(
        [[f if rank is None else rank for rank, f in zip(plan.values(), full, strict=True)] for plan in plans]
    )
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert ranks[0].tolist() == [1, 1, 1]
    assert ranks[-1].tolist() == full


def test_share_of_one_value_that_dominates_and_of_a_flat_spectrum():
    one = np.array([100.0] + [0.1] * 63)
    layers = network(layer("one", 10**6, 1, 10, 1, one), layer("flat", 10**6, 1, 10, 1, np.ones(64)))
    assert allocate(layers, "energy", share=0.75).ranks == {"one": 1, "flat": 48}


@pytest.mark.parametrize(("share", "rank"), [(0.64, 1), (0.6400001, 2), (1.0, 2), (1, 2)])
def test_a_share_kept_exactly_is_enough(share, rank):
    layers = network(layer("a", 10**6, 1, 10, 1, [4.0, 3.0, 0.0, 0.0]))  # squares 16 and 9: 0.64 and 1
    assert allocate(layers, "energy", share=share).ranks == {"a": rank}


def test_a_share_of_one_keeps_what_the_arithmetic_can_tell_from_zero():
    layers = network(layer("a", 10**6, 1, 10, 1, [1.0, 1e-5, 1e-7]))  # squares 1, 1e-10 and 1e-14
    assert allocate(layers, "energy", share=1).ranks == {"a": 2}


def test_groups_are_counted_together():
    values = np.array([[3.0, 1.0], [3.0, 1.0]])
    profile = layer("a", 10**6, 1, 10, 1, [1.0, 1.0])
    grouped = type(profile)(**{**vars(profile), "singular_values": values})
    np.testing.assert_allclose(grouped.energy, [0.9, 1.0])
    np.testing.assert_allclose(grouped.error, [0.1, 0.0], atol=1e-15)


def test_a_layer_of_zeros_keeps_rank_one_whatever_the_share():
    layers = network(layer("zeros", 10**6, 1, 10, 1, np.zeros(6)), layer("b", 10**6, 1, 10, 1, np.ones(6)))
    assert layers["zeros"].energy.tolist() == [1] * 6
    assert layers["zeros"].error.tolist() == [0] * 6
    for share, rank in ((0.5, 3), (1, 6)):
        assert allocate(layers, "energy", share=share).ranks == {"zeros": 1, "b": rank}


def test_under_a_budget_a_layer_of_zeros_is_filled_last():
    layers = network(
        layer("zeros", 1000, 1000, 10, 10, np.zeros(90)), layer("b", 1000, 1000, 10, 10, np.linspace(2, 1, 90))
    )
    assert allocate(layers, "energy", macs=0.3).ranks == {"zeros": 1, "b": 59}
    full = allocate(layers, "energy", macs=0.7).ranks
    assert full == {"zeros": 40, "b": None}


@pytest.mark.parametrize("budget", [{"macs": 0.35}, {"weights": 0.5}, {"macs": 0.6, "weights": 0.5}])
def test_budget_gives_the_ranks_of_one_share_but_for_single_ranks(budget):
    layers = enc_vgg16()
    rng = np.random.default_rng(0)
    layers = network(
        *(
            type(p)(**{**vars(p), "singular_values": np.sort(rng.gamma(0.5, size=(1, p.full_rank)))[:, ::-1]})
            for p in layers.values()
        )
    )
    plan = allocate(layers, "energy", **budget)
    assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1
    kept = {name: layers[name].energy[rank - 1] for name, rank in plan.ranks.items() if rank is not None}
    # One share between the least of what the ranks keep and the most of what one rank less would keep.
    less = {name: layers[name].energy[plan[name] - 2] for name in kept if plan[name] > 1}
    assert len(kept) >= 10
    assert max(less.values()) - min(kept.values()) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes a share or a budget .*, got neither: set the other to null"),
        ({"share": 0.9, "macs": 0.5}, r"got share=0.9 and a budget \({'macs': 0.5}\)"),
        ({"share": 0.9, "macs": 0.5, "weights": 0.2}, r"share=0.9 and a budget \({'macs': 0.5, 'weights': 0.2}\)"),
        ({"share": 0}, r"share=0 is not in \(0, 1\]: 0.9 keeps 90 %"),
        ({"share": 1.01}, r"share=1.01 is not in"),
        ({"share": True}, r"share=True is not in"),
        ({"share": "0.5"}, r"share='0.5' is not in"),
        ({"share": float("nan")}, r"share=nan is not in"),
        ({"shares": 0.5}, r"the energy policy has no option \['shares'\]; it takes \['share'\]"),
    ],
)
def test_share_and_budget_contradict(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate(spectra(), "energy", **arguments)
