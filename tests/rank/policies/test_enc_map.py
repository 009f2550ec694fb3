from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator
from torch import nn

from lowrank_exp.rank import Candidate, allocate, profile
from lowrank_exp.rank.enc.curves import network_quality
from lowrank_exp.rank.policies.enc_map import SharedQuality, cost_tables, enc_map, first_fixed, halves_up, options_at
from support.cells import cells
from support.enc_cases import PUBLISHED, problem, vgg16
from support.profiles import by_hand, changed, layer, network


def ranks(policy_problem, **options):
    return list(enc_map(policy_problem, **options).values())


def test_the_published_rank_set_but_for_one_rank():
    """Source: ENC's table 1, ENC-Map; conv4_3 has 241 there. Its cost and that of 0.251: from the authors' files."""
    found = ranks(problem(vgg16(), macs=0.252), metric="measured", first="half")
    assert PUBLISHED["table 1 map"][9] == 241
    assert found == [*PUBLISHED["table 1 map"][:9], 240, *PUBLISHED["table 1 map"][10:]]
    quality = network_quality(vgg16(), dict(zip(vgg16(), found, strict=True)))
    assert abs(quality.C - 0.25211) < 5e-6
    nearer = ranks(problem(vgg16(), macs=0.251), metric="measured", first="half")
    assert nearer == [10, 16, 26, 52, 57, 74, 123, 100, 164, 240, 233, 287, 330]


@pytest.mark.parametrize(
    ("budget", "space", "bound"),
    [
        (0.251, 0.1, [17, 27, 74, 86, 119, 148, 140, 225, 360, 280, 549, 549]),
        (0.251, -0.1, [11, 20, 31, 37, 56, 69, 70, 86, 118, 127, 147, 151]),
        (0.252, 0.1, [17, 27, 75, 87, 121, 148, 141, 227, 368, 281, 555, 554]),
        (0.252, -0.1, [11, 21, 31, 37, 56, 70, 70, 87, 119, 128, 148, 153]),
    ],
)
def test_the_bounds_of_encs_search(budget, space, bound):
    """By an independent computation from the authors' files; the first layer has 10."""
    rest, fixed = first_fixed(problem(vgg16(), macs=budget), "half")
    assert fixed == {"conv1_1": 10}
    shared = SharedQuality(rest, "measured")
    alpha = shared.alpha(space)
    assert [shared.rung_at(c.profile, alpha) for c in rest.candidates] == bound


def step_by_step(layers, C_t, metric, first):
    """The recipe, one number after the other, without budget rules: ranks of layers whose costs are c_l r."""
    layers = list(layers.values())
    c = [one.rank_macs[0] for one in layers]
    C_orig = sum(one.macs for one in layers)
    begin = 0 if first == "map" else 1
    measured = metric == "measured"
    half = int(layers[0].r_max / 2 + 0.5) if first == "half" else layers[0].r_max
    if begin:
        C_t -= c[0] * (half if measured or first == "max" else layers[0].r_max / 2) / C_orig
    points = []
    for one in layers[begin:]:
        S = np.cumsum(one.singular_values[0])
        e, y = [0.0], [0.0]
        for n, R in enumerate(one.sampled_ranks or range(1, one.r_max + 1)):
            quality = one.sampled_accuracy[n] if measured else (S[R - 1] - S[0]) / (S[one.r_max - 1] - S[0])
            if e[-1] < 1 and quality > e[-1]:
                e.append(quality)
                y.append(R / one.r_max)
        points.append((e, y))

    def ranks_at(alpha):
        wished = [curve(alpha) * one.r_max for curve, one in zip(curves, layers[begin:], strict=True)]
        return [int(np.floor(r + 0.5)) if measured else int(np.round(r)) for r in wished]

    def cost(R):
        return sum(one * r for one, r in zip(c[begin:], R, strict=True)) / C_orig

    curves = [PchipInterpolator(e, y) for e, y in points]
    grid = [n / 100 for n in range(10, 101)]
    if C_t > max(cost(ranks_at(alpha)) for alpha in grid):
        curves = [PchipInterpolator(e, [*y[:-1], 1.0]) for e, y in points]
    known = {0.0: 0.0}
    for alpha in grid:
        known.setdefault(cost(ranks_at(alpha)), alpha)
    inverse = PchipInterpolator(sorted(known), [known[C] for C in sorted(known)])
    delta = 0
    for _ in range(501):
        wanted = C_t + delta * 0.001
        R = ranks_at(1.0 if wanted > 1 else float(inverse(wanted)))
        delta += 1 if cost(R) <= C_t else -1
        if not measured and abs(cost(R) - C_t) < 0.001:
            break
    R = [half] * begin + R
    return [max(min(r, one.r_max), round(one.r_max / 10), 1) for r, one in zip(R, layers, strict=True)]


@cells("budget", [0.2, 0.5, 0.95])
@cells("first", ["map", "half", "max"])
@cells("sampled", [True, False])
def test_energy_is_the_recipe_step_by_step(budget, first, sampled):
    layers = vgg16()
    if not sampled:
        layers = {name: changed(one, sampled_ranks=()) for name, one in layers.items()}
    assert ranks(problem(layers, macs=budget), first=first) == step_by_step(layers, budget, "energy", first)


@cells("budget", [0.2, 0.5, 0.8])
@cells("first", ["map", "half", "max"])
def test_measured_is_the_recipe_step_by_step(budget, first):
    expected = step_by_step(vgg16(), budget, "measured", first)
    assert ranks(problem(vgg16(), macs=budget), metric="measured", first=first) == expected


def synthetic(seed=0, measured=False):
    """Layers of all sizes; a rank at r_max costs about as much as dense."""
    rng = np.random.default_rng(seed)
    layers = []
    for index in range(6):
        full, cost = int(rng.integers(20, 60)), int(rng.integers(100, 900))
        r_max = int(full * 0.7)
        values = np.sort(rng.gamma(0.8, size=full))[::-1]
        more = {}
        if measured:
            accuracy = np.sort(rng.uniform(0.3, 1.0, 4))
            sampled = (*(max(1, int(r_max * share)) for share in (0.1, 0.3, 0.6)), r_max)
            more = {"sampled_ranks": sampled, "sampled_accuracy": accuracy / accuracy[-1]}
        size = int(rng.integers(10, 30))
        macs, weights = r_max * cost + cost // 3, r_max * size + 3
        layers.append(layer(f"layer{index}", macs, weights, cost, size, values, **more))
    return network(*layers)


@pytest.mark.parametrize("metric", ["energy", "measured"])
@pytest.mark.parametrize("seed", range(4))
def test_permuted_layers_have_permuted_ranks(metric, seed):
    layers = synthetic(seed, measured=metric == "measured")
    order = np.random.default_rng(seed).permutation(len(layers))
    permuted = {name: layers[name] for name in np.array(list(layers))[order].tolist()}
    for budget in ({"macs": 0.2}, {"macs": 0.5}, {"macs": 0.9}, {"weights": 0.4}, {"macs": 0.6, "weights": 0.5}):
        found = enc_map(problem(layers, **budget), metric=metric)
        again = enc_map(problem(permuted, **budget), metric=metric)
        assert list(again) == list(permuted)
        assert again == found


@pytest.mark.parametrize(
    ("first", "budgets"), [("map", np.linspace(0.05, 1, 20)), ("half", (0.3, 0.5, 0.8)), ("max", (0.4, 0.6, 1.0))]
)
def test_every_budget_is_met(first, budgets):
    for budget in budgets:
        plan = allocate(synthetic(1), enc_map, macs=float(budget), first=first)
        assert 0.99 <= plan.remaining("macs") / budget <= 1.01


def test_several_budgets_hold():
    plan = allocate(synthetic(2), enc_map, macs=0.6, weights=0.4)
    assert plan.remaining("weights") == pytest.approx(0.4, rel=0.01)
    assert plan.remaining("macs") <= 0.606
    plan = allocate(synthetic(2), enc_map, macs=0.3, weights=0.9)
    assert plan.remaining("macs") == pytest.approx(0.3, rel=0.01)
    assert plan.remaining("weights") <= 0.909


def test_layers_keep_about_the_same_quality():
    layers = synthetic(3)
    plan = allocate(layers, enc_map, macs=0.5)
    S = {name: np.cumsum(one.singular_values[0])[: one.r_max] for name, one in layers.items()}
    kept = {name: (S[name][rank - 1] - S[name][0]) / (S[name][-1] - S[name][0]) for name, rank in plan.items()}
    # One rank more or less changes the quality by at most a singular value over the sum.
    steps = {name: (S[name][plan[name]] - S[name][plan[name] - 2]) / (S[name][-1] - S[name][0]) for name in plan}
    assert max(kept[n] - steps[n] for n in kept) <= min(kept[n] + steps[n] for n in kept)


def test_where_the_map_misses_the_budget_single_ranks_fill_up_by_hand():
    """Two layers whose ranks cost 100 and 1, quality r / 4 and (r - 1) / 39.

    At 0.8 of 400 + 40, the budget is 352; three of the first cost 300. The map's ranks, both at one quality, cost 332
    (3 and 32) or more than 400 (4); the second layer is filled up from 32 to 40, which is less than 1 % away for none:
    300 + 40 = 340 misses by 3.4 %. At 0.77 the budget is 338.8, and 3 with 38 cost 338.
    """
    layers = network(
        layer("a", 400, 400, 100, 100, [1.0] * 4, dense_option=False),
        layer("b", 40, 40, 1, 1, [1.0] * 40, dense_option=False),
    )
    assert allocate(layers, enc_map, macs=0.77).ranks == {"a": 3, "b": 38}
    with pytest.raises(ValueError, match=r"cannot be met within 1 %: the nearest below is macs=0.7727"):
        allocate(layers, enc_map, macs=0.8)


def test_no_rank_is_below_a_tenth_as_long_as_that_can_be_afforded():
    values = [np.r_[100.0, np.full(99, 1e-3)], np.linspace(2, 1, 100)]
    layers = network(*(layer(name, 1000, 1000, 10, 10, v) for name, v in zip("ab", values, strict=True)))
    layers["a"] = changed(layers["a"], sampled_ranks=(2, 100), sampled_accuracy=np.array([0.95, 1.0]))
    layers["b"] = changed(layers["b"], sampled_ranks=(50, 100), sampled_accuracy=np.array([0.5, 1.0]))
    assert allocate(layers, enc_map, macs=0.3, metric="measured")["a"] == 10
    assert allocate(layers, enc_map, macs=0.05, metric="measured")["a"] == 1


def test_the_first_convolution_has_half_or_all_of_r_max():
    odd = network(
        layer("fc", 900, 900, 10, 10, np.linspace(2, 1, 90), kind="linear"),
        layer("stem", 50, 50, 10, 10, np.linspace(2, 1, 9)),
        layer("last", 900, 900, 10, 10, np.linspace(2, 1, 90)),
    )
    assert odd["stem"].r_max == 5
    assert allocate(odd, enc_map, macs=0.5, first="half")["stem"] == 3
    assert allocate(odd, enc_map, macs=0.5, first="max")["stem"] is None  # five ranks cost what dense does
    assert allocate(odd, enc_map, macs=0.8, first="max", rules={"last": None, "stem": {"max": 4}})["stem"] == 4
    with pytest.raises(ValueError, match="first='half' fixes the first convolution, but none may be decomposed here"):
        allocate({"fc": odd["fc"]}, enc_map, macs=0.5, first="half")


def test_layers_left_alone_count():
    layers = synthetic(4) | network(by_hand("alone", "conv", 20_000, 100, refusal="no"))
    plan = allocate(layers, enc_map, macs=0.6)
    assert plan["alone"] is None
    assert plan.remaining("macs") == pytest.approx(0.6, rel=0.01)
    with pytest.raises(ValueError, match="cannot be reached: the smallest possible is"):
        allocate(layers, enc_map, macs=0.05)


def test_pairs_of_ranks_are_taken_by_their_rungs():
    ladder = tuple((n, 2 * n) for n in range(1, 11))
    costs, kept = np.arange(1, 11) * 30, 1 - np.geomspace(0.5, 1e-3, 10)
    kept[-1] = 1
    layers = network(
        by_hand("a", "conv", 300, 300, "tucker2", costs, costs, ranks=ladder, kept=kept),
        layer("b", 1000, 1000, 10, 10, np.ones(100)),
    )
    plan = allocate(layers, enc_map, macs=0.5)
    assert plan["a"] in ladder
    assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)
    # Energies (kept - kept(1)) / (1 - kept(1)), and (r - 1) / 99.
    curve = (kept - kept[0]) / (1 - kept[0])
    rung = ladder.index(plan["a"])
    assert curve[rung - 1] <= (plan["b"] + 1) / 99
    assert (plan["b"] - 2) / 99 <= curve[rung + 1]


def test_a_network_and_its_meta_twin():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, groups=2), nn.Flatten(), nn.Linear(32 * 36, 20))
    for twin in (model, model.to("meta")):
        example = torch.zeros(1, 3, 10, 10, device=next(twin.parameters()).device)
        layers = profile(twin, example, "spatial_svd")
        plan = allocate(layers, enc_map, macs=0.5)
        assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)
        assert all(rank is None or 1 <= rank <= layers[name].full_rank for name, rank in plan.items())


@pytest.mark.parametrize("rungs", [(1, 2, 3, 4, 5, None), (2, 3, 4), (3, None), (4,), (1, None)])
def test_options_of_many_rungs_are_those_of_each(rungs):
    candidate = Candidate(layer("a", 60, 60, 10, 10, np.ones(9)), rungs)
    assert options_at(candidate, np.arange(12)).tolist() == [candidate.option_of(rung) for rung in range(12)]


def test_cost_tables_hold_the_costs_of_options():
    given = problem(network(layer("a", 60, 50, 10, 10, np.ones(9))), macs=0.5)
    assert given.candidates[0].rungs == (1, 2, 3, 4, 5, None)
    assert cost_tables(given.candidates[0], given)["macs"].tolist() == [0, 10, 20, 30, 40, 50]
    bound = replace(given, candidates=(Candidate(given.candidates[0].profile, (2, 3)),))
    assert cost_tables(bound.candidates[0], bound)["macs"].tolist() == [0, 20, 20, 30, 30, 30]


def test_halves_are_rounded_up():
    assert halves_up(np.array([0.0, 0.49999999999999994, 0.5, 1.5, 2.5, 2.4])).tolist() == [0, 0, 1, 2, 3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "A_c"}, "metric='A_c' is not known: energy or measured"),
        ({"first": "last"}, "first='last' is not known: map, half, max"),
        ({"metric": "measured"}, "layer0 has no measured accuracy: measure it by .* or take a metric of energy"),
        ({"space": 0.1}, r"the enc_map policy has no option \['space'\]; it takes \['metric', 'first'\]"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(synthetic(0), enc_map, macs=0.5, **options)
    with pytest.raises(ValueError, match="the enc_map policy needs a budget: set macs or weights"):
        allocate(synthetic(0), enc_map)
