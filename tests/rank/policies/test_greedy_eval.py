"""Greedy evaluation beside a plain search over the table of scores."""

import numpy as np
import pytest

from lowrank_exp.rank import allocate
from lowrank_exp.rank.enc.curves import samples
from lowrank_exp.rank.policies.greedy_eval import greedy_eval
from support.cells import cells
from support.enc_cases import problem, vgg16
from support.profiles import changed, layer, network


def sampled(name, macs, cost, ranks, accuracy, **more):
    """A layer of a hundred ranks with an accuracy at some."""
    made = layer(name, macs, macs, cost, cost, np.ones(100), **more)
    return changed(made, sampled_ranks=tuple(ranks), sampled_accuracy=np.array(accuracy))


def pair():
    return network(
        sampled("a", 1000, 10, [25, 50, 75, 100], [0.5, 0.8, 0.9, 1.0]),
        sampled("b", 500, 5, [25, 50, 75, 100], [0.85, 0.95, 0.98, 1.0]),
    )


@pytest.mark.parametrize(
    ("threshold", "a", "b"),
    [(0.01, 25, 25), (0.5, 25, 25), (0.51, 50, 25), (0.8, 50, 25), (0.85, 75, 25), (0.9, 75, 50), (0.97, None, 75)],
)
def test_the_lowest_sampled_rank_that_reaches_the_threshold(threshold, a, b):
    assert allocate(pair(), greedy_eval, threshold=threshold).ranks == {"a": a, "b": b}


def test_a_layer_that_reaches_the_threshold_nowhere_stays_dense():
    assert allocate(pair(), greedy_eval, threshold=1.01).ranks == {"a": None, "b": None}


def test_a_higher_rank_counts_at_least_as_much_as_a_lower_one():
    layers = network(sampled("a", 1000, 10, [10, 20, 30, 40, 100], [0.6, 0.9, 0.7, 0.85, 1.0]))
    for threshold, rank in ((0.6, 10), (0.65, 20), (0.9, 20), (0.91, None)):
        assert allocate(layers, greedy_eval, threshold=threshold).ranks == {"a": rank}
    assert allocate(layers, greedy_eval, threshold=0.91, rules={"a": {"max": 99}}).ranks == {"a": 99}


@pytest.mark.parametrize(
    ("cost", "ranks"),
    [
        (375, {"a": 25, "b": 25}),  # T = 0.5
        (625, {"a": 50, "b": 25}),  # T = 0.8
        (875, {"a": 75, "b": 25}),  # T = 0.85
        (1000, {"a": 75, "b": 50}),  # T = 0.9
        (1125, {"a": 75, "b": 75}),  # not by one T: filled up from T = 0.9, a is at 0.904 one rank above, b at 0.9512
        (1500, {"a": None, "b": None}),
    ],
)
def test_budgets_by_hand(cost, ranks):
    found = allocate(pair(), greedy_eval, macs=cost / 1500).ranks
    if cost == 1125:
        # At equal accuracy a = 75 + (T - 0.9) / 0.004 and b = 50 + (T - 0.95) / 0.0012, so that b waits at 50.
        assert found == {"a": 87, "b": 51}
    else:
        assert found == ranks


def test_below_the_lowest_samples_accuracy_falls_to_zero():
    """a has 0.5 at 25 and b 0.85 at 25: at T = 0.1 their lines are at 5 and 2.94."""
    assert allocate(pair(), greedy_eval, macs=65 / 1500).ranks == {"a": 5, "b": 3}


def as_described(given):
    """The highest threshold that fits: of all the scores in the table, the highest ones tried first."""
    table = {}
    for candidate in given.candidates:
        rungs, score = samples(candidate.profile)
        table[candidate.profile.name] = rungs, [max(score[: n + 1]) for n in range(len(score))]
    for threshold in sorted({one for _, score in table.values() for one in score}, reverse=True):
        options = []
        for candidate in given.candidates:
            rungs, score = table[candidate.profile.name]
            reached = [rung for rung, one in zip(rungs, score, strict=True) if one >= threshold]
            options.append(candidate.option_of(min(reached, default=10**6)))
        if given.fits(options):
            return options
    return None


def several(seed, layers=6, count=8):
    rng = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        cost = int(rng.integers(5, 30))
        r_max = int(rng.integers(50, 99))
        ranks = np.unique(np.round(r_max * np.arange(1, count + 1) / count).astype(int)).tolist()
        accuracy = 1 - np.geomspace(rng.uniform(0.1, 0.9), 1e-3, len(ranks)) + rng.normal(scale=0.01, size=len(ranks))
        made.append(sampled(f"layer{index}", cost * r_max + 1, cost, ranks, accuracy))
    return network(*made)


BUDGETS = [{"macs": 0.1}, {"macs": 0.3}, {"macs": 0.5}, {"weights": 0.8}, {"macs": 0.7, "bytes": 0.4}]


@cells("budget", BUDGETS)
@cells("count", [3, 8, 40])
@cells("seed", range(4))
def test_the_choice_of_the_table_or_that_filled_up(seed, count, budget):
    given = problem(several(seed, count=count), **budget)
    found = [c.ranks.index(rank) for c, rank in zip(given.candidates, greedy_eval(given).values(), strict=True)]
    expected = as_described(given)
    if expected is None:
        assert not given.fits([c.option_of(samples(c.profile)[0][0]) for c in given.candidates])
    elif given.met(expected):
        assert found == expected
    else:
        assert all(more >= least for more, least in zip(found, expected, strict=True))
        assert given.load(expected) < 0.99 <= given.load(found) <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_every_budget_is_met_and_the_order_of_layers_does_not_matter(seed):
    layers = several(seed)
    order = np.random.default_rng(seed).permutation(len(layers))
    permuted = {name: layers[name] for name in np.array(list(layers))[order].tolist()}
    for budget in BUDGETS:
        plan = allocate(layers, greedy_eval, **budget)
        assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1.01
        assert allocate(permuted, greedy_eval, **budget).ranks == plan.ranks


def test_a_higher_threshold_never_lowers_a_rank():
    layers = several(0)
    full = [one.full_rank for one in layers.values()]
    plans = [allocate(layers, greedy_eval, threshold=t) for t in np.linspace(0.01, 1.1, 40).tolist()]
    ranks = np.array([[f if r is None else r for r, f in zip(plan.values(), full, strict=True)] for plan in plans])
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert ranks[0].tolist() == [one.sampled_ranks[0] for one in layers.values()]
    assert ranks[-1].tolist() == full


@pytest.mark.parametrize("macs", [0.15, 0.25, 0.4])
def test_the_measured_vgg16_of_enc(macs):
    given = problem(vgg16(), macs=macs)
    found = [c.ranks.index(rank) for c, rank in zip(given.candidates, greedy_eval(given).values(), strict=True)]
    assert given.load(found) == pytest.approx(1, abs=0.01)
    assert all(more >= least for more, least in zip(found, as_described(given), strict=True))


def test_accuracies_of_zero_at_the_lowest_ranks():
    layers = network(
        sampled("a", 1000, 10, [25, 50, 100], [0.0, 0.8, 1.0]), sampled("b", 1000, 10, [25, 50, 100], [0.0, 0.9, 1.0])
    )
    assert allocate(layers, greedy_eval, macs=0.25).ranks == {"a": 25, "b": 25}
    assert allocate(layers, greedy_eval, macs=0.5).ranks == {"a": 50, "b": 50}


def test_multiples_and_rules():
    layers = pair()
    plan = allocate(layers, greedy_eval, macs=0.48, multiple=8)
    assert all(rank % 8 == 0 for rank in plan.values())
    assert plan.remaining("macs") == pytest.approx(0.48, rel=0.01)
    assert allocate(layers, greedy_eval, threshold=0.8, rules={"a": {"max": 40}, "b": {"min": 30}}).ranks == {
        "a": 40,
        "b": 30,
    }


def test_a_layer_without_samples_is_named():
    layers = pair() | network(layer("c", 100, 100, 1, 1, np.ones(50)))
    with pytest.raises(ValueError, match="c has no measured accuracy"):
        allocate(layers, greedy_eval, macs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the greedy_eval policy takes a threshold or a budget .*, got neither: set the other to null"),
        ({"threshold": 0.9, "macs": 0.5}, r"got threshold=0.9 and a budget \({'macs': 0.5}\): set the other to null"),
        ({"threshold": 0}, "threshold=0 is not a positive number: 0.99 keeps 99 %"),
        ({"threshold": -0.1}, "threshold=-0.1 is not a positive number"),
        ({"threshold": True}, "threshold=True is not a positive number"),
        ({"threshold": float("nan")}, "threshold=nan is not a positive number"),
        ({"threshold": float("inf")}, "threshold=inf is not a positive number"),
        ({"share": 0.9}, r"the greedy_eval policy has no option \['share'\]; it takes \['threshold'\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(pair(), greedy_eval, **options)
