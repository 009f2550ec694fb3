import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.rank import allocate
from lowrank_exp.rank import profile as profiled
from lowrank_exp.rank.policies.energy import energy
from support.cells import cells
from support.enc_cases import problem
from support.profiles import changed, enc_vgg16, layer, network


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
    grouped = changed(profile, singular_values=values)
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
        *(changed(p, singular_values=np.sort(rng.gamma(0.5, size=(1, p.full_rank)))[:, ::-1]) for p in layers.values())
    )
    plan = allocate(layers, "energy", **budget)
    assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1
    kept = {name: layers[name].energy[rank - 1] for name, rank in plan.ranks.items() if rank is not None}
    # One share between the least of what the ranks keep and the most of what one rank less would keep.
    less = {name: layers[name].energy[plan[name] - 2] for name in kept if plan[name] > 1}
    assert len(kept) >= 10
    assert max(less.values()) - min(kept.values()) < 0.01


@cells(
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
        (
            {"shares": 0.5},
            r"energy policy has no option \['shares'\]; it takes \['share', 'power', 'rule', 'metric'\]",
        ),
    ],
)
def test_share_and_budget_contradict(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate(spectra(), "energy", **arguments)


# Plain singular values


def test_plain_singular_values_by_hand():
    """Of 2, 1, 1 the first keeps 4 of 6 squared, and 2 of 4 plain."""
    layers = network(layer("a", 10**6, 1, 10, 1, [2.0, 1.0, 1.0]))
    for share, squared, plain in ((0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 2), (0.8, 2, 3)):
        assert allocate(layers, "energy", share=share).ranks == {"a": squared}
        assert allocate(layers, "energy", share=share, power=1).ranks == {"a": plain}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_plain_singular_values_of_groups_are_added(share):
    values = np.sort(np.random.default_rng(3).gamma(1.0, size=(4, 30)))[:, ::-1]
    grouped = changed(layer("a", 10**6, 1, 10, 1, np.ones(30)), singular_values=values)
    kept = np.cumsum(values.sum(0)) / values.sum()
    rank = next(r for r in range(1, 31) if kept[r - 1] >= share)
    assert allocate(network(grouped), "energy", share=share, power=1).ranks == {"a": rank}


def test_plain_singular_values_leave_less_to_a_steep_layer_than_squared_ones():
    layers = network(
        layer("steep", 10**4, 10**4, 100, 100, 0.9 ** np.arange(200)),
        layer("flat", 10**4, 10**4, 100, 100, np.ones(200)),
    )
    squared, plain = (allocate(layers, "energy", macs=0.5, power=power).ranks for power in (2, 1))
    # 1 - 0.81^3 = 1 - 0.9^6 = 0.4686; beside 94 / 200 = 0.47 the squared share asks for one more, and 95 and 96 fit.
    assert squared["flat"] + squared["steep"] == plain["flat"] + plain["steep"] == 100
    assert squared == {"steep": 4, "flat": 96}
    assert plain == {"steep": 6, "flat": 94}


@pytest.mark.parametrize("rule", ["share", "product"])
def test_without_singular_values_there_are_no_plain_ones(rule):
    kept = np.linspace(0.1, 1, 20)
    tucker = changed(
        layer("a", 150, 150, 10, 10, np.ones(20)), decomposition="tucker2", singular_values=np.zeros((1, 0)), kept=kept
    )
    assert allocate(network(tucker), "energy", macs=0.4, rule=rule).ranks == {"a": 6}
    with pytest.raises(ValueError, match=r"a: power=1 adds up singular values, and tucker2 has none: set power to 2"):
        allocate(network(tucker), "energy", macs=0.4, rule=rule, power=1)


# The product of energies


def drops_one_by_one(given, power=2):
    """The options of Zhang's greedy rule, every possible drop of every layer compared at every step."""
    values = [c.profile.singular_values.sum(0) if power == 1 else c.profile.energy for c in given.candidates]
    kept = [np.cumsum(v) / v.sum() if power == 1 else v for v in values]
    E = [[1.0 if r is None else float(k[r - 1]) for r in c.rungs] for k, c in zip(kept, given.candidates, strict=True)]
    costs = {w: [[c.cost(o, w) for o in range(len(c.rungs))] for c in given.candidates] for w in given.budget.bounds}
    limits = {what: bound * given.dense[what] * (1 + 1e-9) for what, bound in given.budget.bounds.items()}
    options = [len(c.rungs) - 1 for c in given.candidates]
    while over := [what for what in limits if given.cost(options, what) > limits[what]]:
        best = (np.inf, None, None)
        for index, at in enumerate(options):
            for low in range(at):
                saved = sum((costs[w][index][at] - costs[w][index][low]) / limits[w] for w in over)
                ratio = (E[index][at] - E[index][low]) / E[index][at] / saved
                best = min(best, (ratio, index, low))
        options[best[1]] = best[2]
    return options


def falling(seed, layers=4, dense_option=True):
    """Layers with falling singular values; ranks cost as much as dense at two thirds of the full rank."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(layers):
        full, macs, weights = int(rng.integers(90, 160)), int(rng.integers(50, 200)), int(rng.integers(20, 90))
        values = np.sort(rng.gamma(rng.uniform(0.3, 2.0), size=full))[::-1]
        r_max = full * 2 / 3
        made.append(
            layer(
                f"layer{index}",
                int(macs * r_max) + 7,
                int(weights * r_max) + 3,
                macs,
                weights,
                values,
                dense_option=dense_option,
            )
        )
    return network(*made)


BUDGETS = [{"macs": 0.25}, {"macs": 0.5}, {"weights": 0.7}, {"macs": 0.5, "weights": 0.5}, {"macs": 0.9, "bytes": 0.4}]


@cells("budget", BUDGETS)
@cells("seed", range(4))
@cells("power", [1, 2])
def test_product_is_the_greedy_rule_step_by_step(budget, seed, power):
    given = problem(falling(seed), **budget)
    found = [
        candidate.ranks.index(rank)
        for candidate, rank in zip(given.candidates, energy(given, rule="product", power=power).values(), strict=True)
    ]
    expected = drops_one_by_one(given, power)
    if given.met(expected):
        assert found == expected
    else:  # what is left of the budget undoes drops
        assert given.load(expected) < 0.99
        assert all(more >= least for more, least in zip(found, expected, strict=True))
        assert given.load(expected) < given.load(found) <= 1 + 1e-9


def kept_at(name, macs, cost, kept):
    """A layer that keeps `kept` at its ranks."""
    return changed(layer(name, macs, macs, cost, cost, np.ones(len(kept))), kept=np.array(kept))


def test_a_case_by_hand():
    """Costs of a: 33, 66, 99, dense 100; of b: 20, 40, 60, 80, dense 100. Energy lost for cost saved:

    a: dense -> 3 0.1 / 1, dense -> 2 0.2 / 34 = 0.0059, dense -> 1 0.5 / 67 = 0.0075; 2 -> 1 (0.3 / 0.8) / 33 = 0.0114
    b: dense -> 4 0.03 / 20 = 0.0015; 4 -> 3 (0.07 / 0.97) / 20 = 0.0036; 3 -> 2 (0.2 / 0.9) / 20 = 0.0111;
       2 -> 1 (0.3 / 0.7) / 20 = 0.0214
    so that the drops are b4, b3, a2 (126), b2 (106), a1 (73), b1 (53).
    """
    layers = network(kept_at("a", 100, 33, [0.5, 0.8, 0.9, 1.0]), kept_at("b", 100, 20, [0.4, 0.7, 0.9, 0.97, 1.0]))
    for macs, ranks in (
        (200, {"a": None, "b": None}),
        (180, {"a": None, "b": 4}),
        (160, {"a": None, "b": 3}),
        (126, {"a": 2, "b": 3}),
        (106, {"a": 2, "b": 2}),
        (73, {"a": 1, "b": 2}),
        (53, {"a": 1, "b": 1}),
    ):
        assert allocate(layers, "energy", macs=macs / 200, rule="product").ranks == ranks
    # 146 holds first at 126; of the drops undone, a cannot rise to 3 (159), and b rises to 4.
    assert allocate(layers, "energy", macs=146 / 200, rule="product").ranks == {"a": 2, "b": 4}


@pytest.mark.parametrize("seed", range(6))
def test_at_one_cost_for_all_ranks_the_greedy_product_is_the_highest(seed):
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.gamma(0.7, size=size))[::-1] for size in (5, 7, 6)]
    layers = network(
        *(layer(n, len(v), len(v), 1, 1, v, dense_option=False) for n, v in zip("abc", values, strict=True))
    )
    E = [np.cumsum(v**2) / np.sum(v**2) for v in values]
    for kept in range(3, 19):
        plan = allocate(layers, "energy", macs=kept / 18, rule="product")
        product = np.prod([e[rank - 1] for e, rank in zip(E, plan.values(), strict=True)])
        best = max(
            np.prod([e[rank - 1] for e, rank in zip(E, ranks, strict=True)])
            for ranks in itertools.product(*(range(1, len(v) + 1) for v in values))
            if sum(ranks) == kept
        )
        assert sum(plan.values()) == kept
        assert product == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_at_different_costs_the_greedy_product_is_near_the_highest(seed):
    rng = np.random.default_rng(seed)
    sizes, costs = (9, 12, 8), rng.integers(5, 15, 3).tolist()
    layers = network(
        *(
            layer(name, int(cost * size * 0.7), 1, cost, 1, np.sort(rng.gamma(0.7, size=size))[::-1])
            for name, size, cost in zip("abc", sizes, costs, strict=True)
        )
    )
    given = problem(layers, macs=0.6)
    E = [np.append(c.profile.energy[: len(c.rungs) - 1], 1.0) for c in given.candidates]
    ranks = energy(given, rule="product")
    options = [c.ranks.index(rank) for c, rank in zip(given.candidates, ranks.values(), strict=True)]
    cost = given.cost(options, "macs")
    best = max(
        np.prod([e[o] for e, o in zip(E, some, strict=True)])
        for some in itertools.product(*(range(len(c.rungs)) for c in given.candidates))
        if given.cost(some, "macs") <= cost
    )
    product = np.prod([e[o] for e, o in zip(E, options, strict=True)])
    assert 0.9 * best <= product <= best * (1 + 1e-12)


@cells("macs", [0.3, 0.45, 0.8])
@cells("seed", range(3))
def test_falling_sensitivities_make_the_greedy_rule_one_threshold(macs, seed):
    """Source: the PCA baseline beside ALDS keeps the ranks whose s^2 / cumsum(s^2) / cost exceeds one threshold."""
    layers = falling(seed, layers=5, dense_option=False)
    given = problem(layers, macs=macs)
    sensitivities = []
    for one in layers.values():
        squared = one.singular_values[0] ** 2
        sensitivities.append(squared / np.cumsum(squared) / one.rank_macs[0])
        assert np.all(np.diff(sensitivities[-1]) < 0)
    for threshold in np.sort(np.concatenate(sensitivities)):
        ranks = [max(1, int(np.count_nonzero(s > threshold))) for s in sensitivities]
        if given.fits([rank - 1 for rank in ranks]):
            break
    assert given.met([rank - 1 for rank in ranks])
    assert list(energy(given, rule="product").values()) == ranks


@pytest.mark.parametrize("seed", range(4))
def test_the_product_is_higher_than_that_of_one_share(seed):
    layers = falling(seed, layers=6)

    def product(plan):
        return np.prod([1.0 if r is None else layers[name].energy[r - 1] for name, r in plan.items()])

    for macs in (0.3, 0.5, 0.7):
        greedy, share = (allocate(layers, "energy", macs=macs, rule=rule) for rule in ("product", "share"))
        assert product(greedy) > product(share)


@cells("options", [{"rule": "product"}, {"rule": "product", "power": 1}, {"power": 1}, {}])
@cells("seed", range(5))
def test_every_budget_is_met_and_the_order_of_layers_does_not_matter(options, seed):
    layers = falling(seed, layers=6)
    order = np.random.default_rng(seed).permutation(len(layers))
    permuted = {name: layers[name] for name in np.array(list(layers))[order].tolist()}
    for budget in BUDGETS:
        plan = allocate(layers, "energy", **budget, **options)
        assert 0.99 <= max(plan.remaining(what) / bound for what, bound in budget.items()) <= 1.01
        assert allocate(permuted, "energy", **budget, **options).ranks == plan.ranks


def test_the_product_of_rules_and_layers_that_must_be_decomposed():
    layers = falling(2, layers=5, dense_option=False) | falling(1, layers=3)
    rules = {"layer0": {"min": 9, "max": 12}, "layer1": {"min": 20}, "layer2": None}
    plan = allocate(layers, "energy", macs=0.6, rule="product", rules=rules)
    assert 9 <= plan["layer0"] <= 12
    assert plan["layer1"] >= 20
    assert plan["layer2"] is None
    assert all(plan[name] is not None for name in ("layer3", "layer4"))
    assert plan.remaining("macs") == pytest.approx(0.6, rel=0.01)


@pytest.mark.parametrize("options", [{"rule": "product"}, {"rule": "product", "power": 1}, {"power": 1}, {}])
def test_ranks_may_have_to_be_multiples(options):
    layers = falling(3, layers=8)
    plan = allocate(layers, "energy", macs=0.5, multiple=4, **options)
    assert all(rank is None or rank % 4 == 0 for rank in plan.values())
    assert sum(rank is not None for rank in plan.values()) >= 5
    assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)
    free = allocate(layers, "energy", macs=0.5, **options)
    assert all((free[n] or 10**3) - 8 <= (plan[n] or 10**3) <= (free[n] or 10**3) + 8 for n in layers)


def test_a_layer_of_zeros_gives_up_its_ranks_first():
    layers = network(
        layer("zeros", 1000, 1000, 10, 10, np.zeros(150)), layer("b", 1000, 1000, 10, 10, np.linspace(2, 1, 150))
    )
    assert allocate(layers, "energy", macs=0.505, rule="product").ranks == {"zeros": 1, "b": None}


@pytest.mark.parametrize("decomposition", ["spatial_svd", "tucker2"])
def test_the_product_of_a_network_and_of_its_meta_twin(decomposition):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3, groups=2), nn.Conv2d(32, 24, 3))
    for twin in (model, model.to("meta")):
        example = torch.zeros(1, 16, 12, 12, device=next(twin.parameters()).device)
        plan = allocate(profiled(twin, example, decomposition), "energy", macs=0.5, rule="product")
        assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "sum", "macs": 0.5}, "rule='sum' is not known: share or product"),
        ({"power": 3, "macs": 0.5}, r"power=3 is neither 2 \(squared singular values\) nor 1"),
        ({"power": True, "macs": 0.5}, "power=True is neither 2"),
        ({"power": 2.0, "macs": 0.5}, "power=2.0 is neither 2"),
        ({"rule": "product"}, "rule='product' takes a budget .* and no share, got no budget: set macs or weights"),
        ({"rule": "product", "share": 0.9}, "takes a budget .* and no share, got share=0.9"),
        ({"rule": "product", "share": 0.9, "macs": 0.5}, "takes a budget .* and no share, got share=0.9"),
    ],
)
def test_rules_and_powers_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate(spectra(), "energy", **arguments)
