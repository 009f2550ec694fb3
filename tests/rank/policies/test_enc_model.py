import itertools

import numpy as np
import pytest
import torch

from lowrank_exp.models import lenet5
from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.enc.curves import energy_curve, measured_curve, network_quality
from lowrank_exp.rank.enc.sets import RankSets, find_near, no_layers, thin_out
from lowrank_exp.rank.policies.enc_map import SharedQuality, enc_map
from lowrank_exp.rank.policies.enc_model import enc_candidates, enc_model
from support.cells import cells
from support.enc_cases import PUBLISHED, problem, vgg16
from support.profiles import by_hand, changed, layer, network


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("A_c", [10, 17, 27, 42, 74, 68, 114, 140, 159, 228, 280, 285, 351]),
        ("A_m", [10, 17, 27, 42, 62, 68, 131, 119, 159, 228, 280, 285, 351]),
        ("A_p", [10, 17, 27, 34, 86, 85, 80, 140, 159, 195, 280, 483, 483]),
    ],
)
def test_vgg16_has_as_many_candidates_and_the_same_best(metric, best):
    """By an independent computation from the authors' files."""
    found = enc_candidates(problem(vgg16(), macs=0.251), metric=metric, density=0.096, first="half")
    assert len(found) == 18_214
    assert list(found[0].values()) == best
    quality = network_quality(vgg16(), found[0])
    assert found.scores[0] == pytest.approx(getattr(quality, metric), rel=1e-12)
    if metric == "A_c":
        np.testing.assert_allclose([quality.A_c, quality.C, quality.W], [0.96267, 0.25109, 0.32259], atol=5e-6, rtol=0)


def test_candidates_of_vgg16_are_near_the_budget_best_first_and_the_code_s_own_set_is_among_them():
    """The set that was left in the authors' code is number 24 by A_c, so among the 40 that ENC-Inf would measure."""
    layers = vgg16()
    found = enc_candidates(problem(layers, macs=0.251), density=0.096, first="half")
    assert found.options.shape == (18_214, 13)
    assert len(np.unique(found.options, axis=0)) == 18_214
    assert (np.diff(found.scores) <= 0).all()
    assert list(found[23].values()) == PUBLISHED["in the code"]
    C = (found.options + 1) @ [int(one.rank_macs[0]) for one in layers.values()] / 15_346_680_832
    # R_max costs 0.34988: a margin of 0.005 of what that is above the budget.
    assert 0.95 < abs(C - 0.251).max() / (0.005 * (0.34988 - 0.251)) < 1
    for place in (0, 100, 18_213):
        quality = network_quality(layers, found[place])
        assert (quality.C, quality.A_c) == pytest.approx((C[place], found.scores[place]), rel=1e-12)


def test_more_than_600_000_rank_sets_are_cut_to_the_best_10_000():
    finer = enc_candidates(problem(vgg16(), macs=0.252), density=0.165, first="half")
    assert len(finer) == 10_000
    coarse = enc_candidates(problem(vgg16(), macs=0.252), density=0.096, first="half")
    assert finer.scores[0] > coarse.scores[0]
    assert finer.scores[-1] > np.median(coarse.scores)


def small(measured=True, **more):
    """Four convolutions, the middle ones alike in cost; each r_max is 20 to 40, where it costs what dense does."""
    rng = np.random.default_rng(5)
    layers = []
    for name, r_max, cost in (("a", 20, 500), ("b", 40, 300), ("c", 30, 300), ("d", 25, 700)):
        accuracy = np.append(np.sort(rng.uniform(0.5, 1.0, 3)), 1.0)
        sampled = {"sampled_ranks": (2, 5, 12, r_max), "sampled_accuracy": accuracy} if measured else {}
        values = np.sort(rng.gamma(0.8, size=r_max))[::-1]
        layers.append(layer(name, r_max * cost, r_max, cost, 1, values, dense_option=False, **sampled, **more))
    return network(*layers)


def enumerated(layers, C_t, metric, space, margin, t):
    """All rank sets of the lattice, one after the other; b and c are the only group."""
    c = np.array([one.rank_macs[0] for one in layers.values()])
    C_orig = sum(one.macs for one in layers.values())
    y_p, y_m = [[curve(one) for one in layers.values()] for curve in (energy_curve, measured_curve)]
    shared = SharedQuality(problem(layers, macs=C_t), "measured")
    high, low = ([shared.rung_at(one, shared.alpha(s)) for one in layers.values()] for s in (space, -space))
    delta = (c @ high) / C_orig - C_t
    x_max = [min(h - l, int(delta * C_orig / one + 0.5)) for h, l, one in zip(high, low, c, strict=True)]
    x_L = [range(0, most + 1, t) for most in x_max]

    def score(R, places):
        A_p = np.prod([y_p[l][r - 1] for l, r in zip(places, R, strict=True)])
        A_m = np.prod([y_m[l][r - 1] for l, r in zip(places, R, strict=True)])
        return {"A_p": A_p, "A_m": A_m, "A_c": A_m + A_p * (c[list(places)] @ R) / C_orig}[metric]

    best = {}
    for x in itertools.product(x_L[1], x_L[2]):
        scored = score([high[1] - x[0], high[2] - x[1]], (1, 2))
        if sum(x) not in best or scored > best[sum(x)][0]:
            best[sum(x)] = (scored, x)
    found = {}
    for first, (_, middle), last in itertools.product(x_L[0], best.values(), x_L[3]):
        x = np.array([first, *middle, last])
        if abs(c @ x - delta * C_orig) < min(margin * delta, 0.01 * C_t) * C_orig:
            R = (np.array(high) - x).tolist()
            found[tuple(R)] = score(R, range(4))
    return found


@cells("metric", ["A_c", "A_p", "A_m"])
@cells(("budget", "density", "margin", "t"), [(0.4, 1, 0.015, 1), (0.6, 0.5, 0.023, 2), (0.5, 0.34, 0.9, 3)])
def test_candidates_are_those_of_an_enumeration_and_the_map_s(metric, budget, density, margin, t):
    layers = small()
    expected = enumerated(layers, budget, metric, space=0.2, margin=margin, t=t)
    found = enc_candidates(problem(layers, macs=budget), metric=metric, space=0.2, margin=margin, density=density)
    assert len(expected) >= 5
    mapped = enc_map(problem(layers, macs=budget), metric="measured")
    expected.setdefault(tuple(mapped.values()), getattr(network_quality(layers, mapped), metric))
    scored = {tuple(found[place].values()): found.scores[place] for place in range(len(found))}
    assert scored.keys() == expected.keys()
    np.testing.assert_allclose([scored[R] for R in expected], list(expected.values()), rtol=1e-12)
    assert found.scores[0] == max(found.scores)


def test_sub_groups_find_the_same_best_members():
    """A product's best member of every sum is made of the best members of its parts."""
    rng = np.random.default_rng(2)
    values = np.sort(rng.gamma(0.8, size=(8, 30)))[:, ::-1]
    alike = [layer(f"l{n}", 3000, 30, 100, 1, values[n], dense_option=False) for n in range(7)]
    layers = network(*alike, layer("last", 9000, 30, 300, 1, values[7], dense_option=False))
    given, options = problem(layers, macs=0.5), {"metric": "A_p", "margin": 0.05}
    whole = enc_candidates(given, density=0.5, sub_groups=1, **options)
    assert len(whole) > 2
    for sub_groups in (2, 3, 7, None):
        found = enc_candidates(given, density=0.5, sub_groups=sub_groups, **options)
        assert found[0] == whole[0]
        np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-12)
    with pytest.raises(ValueError, match=r"sub_groups=1 leaves .* rank sets to a sub-group, more than 2,000,000"):
        enc_model(given, density=1, space=0.4, sub_groups=1, **options)


@cells("budget", np.linspace(0.1, 1, 10).tolist())
def test_budgets_are_met_and_the_model_is_not_worse_than_the_map(budget):
    rng = np.random.default_rng(3)
    layers = network(
        *(
            layer(f"l{n}", 60 * cost, 60, cost, 1, np.sort(rng.gamma(0.6, size=80))[::-1])
            for n, cost in enumerate((90, 90, 90, 170, 40, 40))
        )
    )
    mapped = allocate(layers, enc_map, macs=budget)
    plan = allocate(layers, enc_model, macs=budget, metric="A_p")
    assert 0.99 <= plan.remaining("macs") / budget <= 1.01
    if 0.2 < budget < 0.95:
        assert network_quality(layers, plan.ranks).A_p >= network_quality(layers, mapped.ranks).A_p * 0.99


@cells("decomposition", ["channel_svd", "spatial_svd", "tucker2"])
def test_the_model_is_never_worse_than_the_map_on_a_small_network(decomposition):
    torch.manual_seed(0)
    layers = profile(lenet5(), torch.zeros(1, 1, 32, 32), decomposition)
    alone = 0
    for budget in np.linspace(0.1, 0.95, 24):
        given = problem(layers, macs=float(budget))
        found = enc_candidates(given, metric="A_p")
        assert found.scores[0] >= network_quality(layers, enc_map(given)).A_p * (1 - 1e-6), budget
        alone += len(found) == 1
    assert alone <= 1


def test_several_budgets_hold():
    rng = np.random.default_rng(4)
    layers = network(
        *(
            layer(f"l{n}", 60 * cost, 60 * size, cost, size, np.sort(rng.gamma(0.6, size=80))[::-1])
            for n, (cost, size) in enumerate([(90, 10), (90, 10), (50, 40), (50, 40), (20, 90)])
        )
    )
    for macs, weights in ((0.5, 0.4), (0.3, 0.8), (0.5, 0.5)):
        given = problem(layers, macs=macs, weights=weights)
        found = enc_candidates(given, metric="A_p", margin=0.05)
        assert len(found) > 10
        loads = [given.load(found.options[place].tolist()) for place in range(len(found))]
        assert abs(np.array(loads) - 1).max() <= 0.01
        assert len(np.unique(found.options, axis=0)) == len(found)


def test_the_first_convolution_is_fixed_or_searched():
    layers = small()
    for first, ranks in (("half", {10}), ("max", {20})):
        found = enc_candidates(problem(layers, macs=0.6), space=0.2, density=0.5, margin=0.05, first=first)
        assert {found[place]["a"] for place in range(len(found))} == ranks
    found = enc_candidates(problem(layers, macs=0.6), space=0.2, density=0.5, margin=0.05)
    assert len({found[place]["a"] for place in range(len(found))}) > 2


def test_where_nothing_is_near_the_ranks_are_those_of_the_map():
    """At a budget of 1 R_max costs no more than it; one huge layer has no rank within 1 % of others."""
    layers = small()
    found = enc_candidates(problem(layers, macs=1.0))
    assert len(found) == 1
    assert found[0] == enc_map(problem(layers, macs=1.0), metric="measured") == {"a": 20, "b": 40, "c": 30, "d": 25}
    assert found.scores[0] == pytest.approx(network_quality(layers, found[0]).A_c)


def test_ranks_of_a_meta_network_and_pairs_of_ranks():
    ladder = tuple((n, 2 * n) for n in range(1, 31))
    costs = np.cumsum(np.linspace(20, 40, 30)).astype(int)
    kept = np.linspace(0.3, 1, 30)
    layers = network(
        by_hand("a", "conv", int(costs[-1]), int(costs[-1]), "tucker2", costs, costs, ranks=ladder, kept=kept),
        layer("b", 1000, 1000, 10, 10, np.ones(100)),
        layer("c", 1000, 1000, 10, 10, np.ones(100)),
    )
    plan = allocate(layers, enc_model, macs=0.5, metric="A_p")
    assert plan["a"] in ladder
    assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)
    # Equal curves and costs: a product is highest where both are equal.
    assert abs(plan["b"] - plan["c"]) <= 2


def test_deep_networks_are_bounded():
    """Of 60 layers with different costs the halves are thinned; the result still beats ENC-Map's."""
    rng = np.random.default_rng(6)
    layers = network(
        *(
            layer(f"l{n}", 100 * (50 + n), 100, 50 + n, 1, np.sort(rng.gamma(0.6, size=100))[::-1])
            for n in rng.permutation(60).tolist()
        )
    )
    plan, mapped = allocate(layers, enc_model, macs=0.5, metric="A_p"), allocate(layers, enc_map, macs=0.5)
    assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)
    assert network_quality(layers, plan.ranks).A_p > network_quality(layers, mapped.ranks).A_p


def test_same_input_gives_the_same_output():
    results = [enc_candidates(problem(vgg16(), macs=0.3), first="half") for _ in range(2)]
    np.testing.assert_array_equal(results[0].options, results[1].options)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)


def sets(costs, qualities):
    costs, qualities = np.array(costs), np.array(qualities)
    rungs = np.arange(len(costs))[:, None]
    return RankSets(rungs, np.arange(len(costs)), costs.reshape(len(costs), -1), qualities, qualities)


def test_pairs_near_a_cost_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    left, right = (sets(rng.integers(0, 100, (n, 2)), rng.uniform(size=n)) for n in (40, 30))
    low, high = np.array([70.0, 90.0]), np.array([80.0, 99.5])
    found, scores = find_near(no_layers(np.array([5, 3])), [left, right], low, high, "A_p", 100)
    total = left.costs[:, None] + right.costs[None] + [5, 3]
    expected = np.argwhere((total < high).all(-1) & (total > low).any(-1))
    assert sorted(map(tuple, found.rungs.tolist())) == sorted(map(tuple, expected.tolist()))
    np.testing.assert_allclose(scores, left.A_p[found.rungs[:, 0]] * right.A_p[found.rungs[:, 1]], rtol=1e-15)
    assert (np.diff(scores) <= 0).all()


def test_thinning_keeps_the_best_of_every_range_of_cost():
    found = thin_out(sets([0, 1, 2, 10, 11, 19, 20], [0.1, 0.3, 0.2, 0.5, 0.6, 0.9, 0.4]), 2, "A_p", 100)
    assert found.rungs.tolist() == [[3], [5]]  # costs 0 to 10 and 11 to 20
    assert found.A_p.tolist() == [0.5, 0.9]


@cells(
    ("options", "message"),
    [
        ({"metric": "energy"}, "metric='energy' is not known: A_c, A_p, A_m"),
        ({}, "a has no measured accuracy: measure it by lowrank_exp.with_accuracy"),
        ({"metric": "A_m"}, "a has no measured accuracy"),
        ({"metric": "A_p", "curve": "measured"}, "a has no measured accuracy"),
        ({"metric": "A_p", "curve": "A_p"}, "metric='A_p' is not known: energy or measured"),
        ({"metric": "A_p", "space": 0}, r"space=0 is not in \(0, 1\]"),
        ({"metric": "A_p", "margin": 1.5}, r"margin=1.5 is not in \(0, 1\]"),
        ({"metric": "A_p", "density": float("nan")}, r"density=nan is not in \(0, 1\]"),
        ({"metric": "A_p", "sub_groups": 0}, "sub_groups=0 is neither a number of parts nor null"),
        ({"metric": "A_p", "first": "second"}, "first='second' is not known: map, half, max"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(small(measured=False), enc_model, macs=0.5, **options)
    with pytest.raises(ValueError, match="ENC's rank sets need a budget"):
        allocate(small(), enc_model)


def test_rules_bound_the_search():
    layers = {name: changed(one, dense_option=True) for name, one in small().items()}
    rules = {"b": {"min": 18, "max": 20}, "c": {"min": 25}}
    plan = allocate(layers, enc_model, macs=0.6, rules=rules, space=0.2)
    assert 18 <= plan["b"] <= 20
    assert plan["c"] is None or plan["c"] >= 25
    assert plan.remaining("macs") == pytest.approx(0.6, rel=0.01)
