"""Budgets of measured time, alone and beside MACs."""

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from lowrank_exp.rank import Budget, BudgetError, Cost, Costs, Plan, allocate
from lowrank_exp.rank.candidates import candidates
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.multiples import at_multiples
from lowrank_exp.rank.problem import planned_layer
from lowrank_exp.rank.reachable import Reach, reachable
from support.cells import cells
from support.profiles import by_hand, changed, joined, layer, network, outside, timed

MS = 1_000_000  # nanoseconds


def untimed():
    return network(
        layer("conv1", 500, 90, 50, 10, np.linspace(3, 1, 9)),
        layer("conv2", 800, 400, 90, 45, np.linspace(5, 1, 4)),
        layer("fc", 60, 60, 10, 10, [2, 1, 1], kind="linear"),
    )


def three(threads=1):
    """conv1, whose time falls at ranks 8, 4 and 2; conv2, at 3 and 1; fc, which is not faster at any; and the rest."""
    at = {"runtime": "onnxruntime", "threads": threads, "batch_size": 1}
    conv1, conv2, fc = untimed().values()
    return network(
        timed(conv1, 10 * MS, {2: 3 * MS, 4: 5 * MS, 8: 7 * MS}, at),
        timed(conv2, 8 * MS, {1: 1 * MS, 3: 4 * MS}, at),
        timed(fc, 1 * MS, {1: 1 * MS, 2: 2 * MS}, at),
        replace(outside(-1 * MS), timed=at),
    )


def drawn(seed, layers=3, times=12):
    """Layers by two decompositions, with times that rise unevenly over ranks of which some are left out."""
    generator = np.random.default_rng(seed)
    found = []
    for place in range(layers):
        both, dense = [], int(generator.integers(40_000, 60_000))
        for kind in ("channel_svd", "spatial_svd"):
            ranks = np.sort(generator.choice(np.arange(1, 60), times, replace=False)).tolist()
            latency = np.sort(generator.choice(np.arange(5_000, 70_000), times, replace=False)).tolist()
            spectrum = np.exp(-np.arange(1, 61) / generator.uniform(10, 40))
            both.append(
                timed(
                    by_hand(
                        f"l{place}",
                        "conv",
                        3000,
                        3000,
                        kind,
                        np.arange(1, 61) * generator.integers(60, 90),
                        np.arange(1, 61) * 70,
                        spectrum[None],
                    ),
                    dense,
                    dict(zip(ranks, latency, strict=True)),
                )
            )
        found.append(joined(*both))
    return network(*found, outside(int(generator.integers(-3_000, 3_000))))


def options_of(profile, bounds):
    """Costs and error of dense, and of every rank that is cheaper in all bounds, by every decomposition."""
    found = [({what: getattr(profile, what) for what in bounds}, 0.0)]
    for one in profile.alternatives:
        for place in range(one.rungs):
            cost = {what: int(getattr(one, f"rank_{what}")[place]) for what in bounds}
            if all(cost[what] < getattr(one, what) for what in bounds):
                found.append((cost, float(one.error[place])))
    return found


def brute_force(layers, bounds):
    """Load and error of every combination."""
    dense = {what: sum(getattr(one, what) for one in layers.values()) for what in bounds}
    every = []
    for chosen in itertools.product(*(options_of(one, bounds) for one in layers.values())):
        loads = [sum(cost[what] for cost, _ in chosen) / (share * dense[what]) for what, share in bounds.items()]
        every.append((max(loads), sum(error for _, error in chosen)))
    return np.array(every).T


def total_error(layers, plan):
    lost = 0.0
    for name, planned in plan.layers.items():
        if planned.rank is not None:
            (one,) = [one for one in layers[name].alternatives if one.decomposition == planned.decomposition]
            lost += one.error[one.ranks.index(planned.rank)]
    return lost


def test_a_rung_has_its_time_and_without_times_it_has_none():
    costs = Costs(np.array([10, 20]), np.array([1, 2]), latency=np.array([300, 400]))
    assert costs.at(1) == Cost(20, 2, 8, 400)
    assert costs.some([1]).latency.tolist() == [400]
    assert costs.known == ("macs", "weights", "bytes", "latency")
    without = Costs(np.array([10, 20]), np.array([1, 2]))
    assert without.at(1) == Cost(20, 2, 8, 0)
    assert without.some([1]).latency.tolist() == []
    assert without.known == ("macs", "weights", "bytes")


def test_a_planned_layer_has_the_times_that_were_measured():
    conv1 = three()["conv1"]
    assert (conv1.latency, conv1.rank_latency.tolist()) == (10 * MS, [3 * MS, 5 * MS, 7 * MS])
    planned = planned_layer(conv1, 4, "")
    assert (planned.latency_before, planned.latency_after) == (10 * MS, 5 * MS)
    dense = planned_layer(conv1, None, "")
    assert (dense.latency_before, dense.latency_after) == (10 * MS, 10 * MS)
    untimed = planned_layer(replace(conv1, timed=None), 4, "")
    assert (untimed.latency_before, untimed.latency_after) == (None, None)


def test_multiples_are_those_whose_time_was_measured():
    conv1 = timed(layer("a", 900, 90, 10, 1, np.ones(20)), 1000, {4: 100, 8: 200, 12: 300, 16: 400})
    single = at_multiples(conv1, 8)
    assert (single.ranks, single.rank_latency.tolist()) == ((8, 16), [200, 400])
    none = at_multiples(changed(conv1, ranks=(4, 12), costs=conv1.offer.costs.some([0, 2])), 8)
    assert none.offers == ()
    assert none.refusal == "no multiple of 8 among its ranks with a measured time, the highest 12"

    def pairs(*ranks):
        numbers = np.arange(1, len(ranks) + 1)
        of = by_hand("a", "conv", 100, 10, "tucker2", numbers * 10, numbers, ranks=ranks, kept=numbers / 100)
        return at_multiples(timed(of, 1000, dict(zip(ranks, (numbers * 100).tolist(), strict=True))), 8)

    # (4, 8) and (12, 16) would be raised to pairs that the ladder has too.
    found = pairs((4, 8), (8, 8), (12, 16), (16, 16))
    assert (found.ranks, found.rank_latency.tolist()) == (((8, 8), (16, 16)), [200, 400])
    assert found.rank_macs.tolist() == [20, 40]
    # (8, 12) would become (8, 16), whose time nobody knows.
    found = pairs((8, 8), (8, 12), (16, 16))
    assert (found.ranks, found.rank_latency.tolist()) == (((8, 8), (16, 16)), [100, 300])


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_all_combinations_of_ranks_and_decompositions(seed):
    layers = drawn(seed)
    for bounds in ({"latency": 0.6}, {"latency": 0.8}, {"macs": 0.6, "latency": 0.7}, {"macs": 0.75, "latency": 0.6}):
        load, error = brute_force(layers, bounds)
        within = np.flatnonzero(load <= 1)
        best = within[error[within].argmin()]
        plan = allocate(layers, "knapsack", **bounds)
        assert total_error(layers, plan) == pytest.approx(error[best], rel=1e-9)
        assert max(plan.remaining(what) / share for what, share in bounds.items()) == pytest.approx(load[best])


@pytest.mark.parametrize("seed", range(4))
def test_a_larger_budget_of_time_never_gives_a_lower_quality(seed):
    layers, lost = drawn(seed, layers=4), []
    for share in np.linspace(0.3, 1.0, 15).tolist():
        lost.append(total_error(layers, allocate(layers, "knapsack", latency=share)))
    assert (np.diff(lost) <= 1e-12).all()
    assert lost[0] > 0
    assert lost[-1] == 0


def test_a_budget_of_time_counts_what_belongs_to_no_layer_and_leaves_dense_what_is_not_faster():
    """Dense takes 18 ms: 10 + 8 + 1 - 1. fc stays at 1 ms, and the rest at -1 ms."""
    plan = allocate(three(), "knapsack", latency=0.5)
    assert plan.ranks == {"conv1": 4, "conv2": 3, "fc": None, "(time outside layers)": None}  # 5 + 4 + 1 - 1
    assert (plan.predicted_ms, plan.dense_ms) == (9.0, 18.0)
    assert plan.remaining("latency") == 0.5
    assert plan.layers["fc"].reason == "no rank is faster than dense: rank 1 takes 1 of 1 ms"
    assert plan.layers["(time outside layers)"].latency_after == -1 * MS
    assert plan.runtime == {"runtime": "onnxruntime", "threads": 1, "batch_size": 1}
    assert (plan.measured_ms, plan.measured_dense_ms) == (None, None)
    assert allocate(three(), "knapsack", latency_ms=9).ranks == plan.ranks
    assert allocate(three(), "knapsack", latency_ms=18).remaining("latency") == 1.0


def test_time_over_the_convolutions_is_theirs_alone():
    plan = allocate(three(), "knapsack", latency=0.5, over="conv")  # of 10 + 8
    assert plan.ranks == {"conv1": 4, "conv2": 3, "fc": None, "(time outside layers)": None}
    assert plan.layers["fc"].reason == "the budget is over the convolutions"
    with pytest.raises(ValueError, match="latency_ms=9 is a time of the whole network: set over to all, or give lat"):
        allocate(three(), latency_ms=9, over="conv")


@cells(
    ("policy", "options"),
    [
        ("uniform", {}),
        ("energy", {}),
        ("energy", {"power": 1}),
        ("energy", {"rule": "product"}),
        ("enc_map", {}),
        ("enc_model", {"metric": "A_p"}),
        ("enc_inf", {"metric": "A_p", "score": lambda ranks: 1.0}),
        ("knapsack", {}),
        ("knapsack", {"metric": "energy"}),
        ("alds", {}),
        ("alds", {"solver": "exact"}),
        ("operator_norm", {}),
        ("c_step", {}),
        ("greedy_eval", {}),
        ("stable_rank", {"times": None}),
    ],
)
def test_every_policy_keeps_a_budget_of_time_alone_and_beside_macs(policy, options):
    generator = np.random.default_rng(0)
    layers = {}
    for place in range(4):
        values = np.exp(-np.arange(60) / generator.uniform(10, 40))
        unfoldings = ((values[None], 90),)
        of = layer(f"l{place}", 3000, 3000, int(generator.integers(60, 90)), 70, values, unfoldings=unfoldings)
        of = changed(of, input_groups=1)
        ranks = np.sort(generator.choice(np.arange(1, 60), 25, replace=False)).tolist()
        latency = np.sort(generator.choice(np.arange(5_000, 70_000), 25, replace=False)).tolist()
        one = timed(of, 60_000, dict(zip(ranks, latency, strict=True)))
        if policy == "greedy_eval":
            some = tuple(one.ranks[::6])
            one = changed(one, sampled_ranks=some, sampled_accuracy=np.linspace(0.5, 1, len(some)))
        layers[one.name] = one
    layers |= network(outside(5_000))
    for bounds in ({"latency": 0.5}, {"latency": 0.6, "macs": 0.5}, {"latency": 0.4, "macs": 0.9}):
        plan = allocate(layers, policy, **bounds, **options)
        load = max(plan.remaining(what) / share for what, share in bounds.items())
        assert 0.95 < load <= 1.01, (bounds, load)
        faster = [one for one in plan.layers.values() if one.rank is not None]
        assert faster
        assert all(one.latency_after < one.latency_before for one in faster)


def test_uniform_ranks_stand_in_one_ratio_where_the_ladder_has_gaps():
    """Of 64 ranks the times of 4, 8, 16, 32, 48 and 64 were measured: half of 64 is 32, whatever is beside it."""
    of = layer("a", 6400, 6400, 100, 100, np.ones(64))
    times = {rank: 10 * rank for rank in (4, 8, 16, 32, 48, 64)}
    layers = network(timed(of, 1000, times), timed(replace(of, name="b"), 1000, times))
    plan = allocate(layers, "uniform", latency=0.32)
    assert plan.ranks == {"a": 32, "b": 32}


def test_policies_without_a_budget_refuse_one_of_time():
    for policy in ("fixed", "evbmf"):
        with pytest.raises(ValueError, match=r"takes no budget, got \{'latency': 0.5\}: .* Set latency to null"):
            allocate(three(), policy, latency=0.5, ranks={"conv1": 4})


def test_what_a_budget_leaves_is_not_filled_up_by_slower_plans_that_are_no_better():
    """Times of 5, 7 and 9: 7 is the best that keeps a budget of 8, and 9 would exceed it."""
    a = timed(layer("a", 100, 100, 10, 10, [3, 2, 1]), 10 * MS, {1: 5 * MS, 2: 7 * MS, 3: 9 * MS})
    for policy in ("knapsack", "uniform", "energy"):
        plan = allocate(network(a), policy, latency_ms=8)
        assert (plan.ranks, plan.predicted_ms) == ({"a": 2}, 7.0)


def test_budgets_of_time_that_cannot_be_reached_are_told_in_milliseconds():
    with pytest.raises(
        BudgetError, match=r"^the budget latency=0\.1 \(1\.8 ms\) cannot be reached: the smallest"
    ) as told:
        allocate(three(), "knapsack", latency=0.1)
    assert "is latency=0.2222 (4 ms) (every layer at its lowest rank)" in str(told.value)  # 3 + 1 + 1 - 1
    assert "macs" not in str(told.value)
    with pytest.raises(BudgetError, match=r"where the time alone matters, set macs to null \(rank\.macs=null\)"):
        allocate(three(), "uniform", latency=0.9, macs=0.1)


@cells(
    ("budget", "message"),
    [
        ({"latency": 1.5}, "the budget latency=1.5 is not a fraction in (0, 1]: 0.5 keeps half of the dense latency"),
        ({"latency": 0}, "the budget latency=0 is not a fraction"),
        ({"latency_ms": 0}, "latency_ms=0 is not a number of milliseconds above 0"),
        ({"latency_ms": "4"}, "latency_ms='4' is not a number of milliseconds above 0"),
        (
            {"latency": 0.5, "latency_ms": 4},
            "latency=0.5 and latency_ms=4 bound the same time: set one of them to null",
        ),
        ({"latency_ms": 18.1}, "latency_ms=18.1 is met already: the dense network takes 18 ms"),
    ],
)
def test_what_is_not_a_budget_of_time(budget, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        allocate(three(), "knapsack", **budget)


def test_a_budget_of_time_needs_times():
    layers = network(layer("conv1", 500, 90, 50, 10, np.linspace(3, 1, 9)))
    for budget, got in (({"latency": 0.5}, "latency=0.5"), ({"latency_ms": 4}, "latency_ms=4")):
        message = f"a budget of time (got {got}) needs profiles with measured times: those of profile(model, example_"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}input, runtime='onnxruntime'"):
            allocate(layers, "knapsack", macs=0.5, **budget)
    assert Budget(latency_ms=4)
    assert Budget(latency_ms=4).bounds == {}


def test_times_of_other_threads_are_never_mixed():
    mixed = three() | {"conv2": three(threads=2)["conv2"]}
    for budget in ({"latency": 0.5}, {"macs": 0.5}):
        with pytest.raises(
            ValueError, match=r"times of conv1 and conv2 do not belong together: threads 1 and 2\. Profile"
        ):
            allocate(mixed, "knapsack", **budget)
    mixed = three() | {"conv2": replace(three()["conv2"], timed=None)}
    with pytest.raises(ValueError, match="the times of conv1 and conv2 do not belong together: conv2 has none"):
        allocate(mixed, "knapsack", latency=0.5)


def test_every_rank_has_a_time_and_higher_ones_take_longer():
    for latency in ([3, 3, 4], [3, 2, 4], [], [1, 2]):
        conv1 = three()["conv1"]
        costs = replace(conv1.offer.costs, latency=np.array(latency, dtype=np.int64))
        wrong = three() | {"conv1": changed(conv1, costs=costs)}
        with pytest.raises(
            ValueError, match="conv1: a budget of time needs a time of every rank of spatial_svd, higher"
        ):
            allocate(wrong, "knapsack", latency=0.5)
        if len(latency) == 3:
            assert allocate(wrong, "knapsack", macs=0.5).ranks["conv1"] is not None


def test_a_decomposition_that_saves_no_macs_takes_no_budget_of_time():
    codebook = timed(changed(layer("a", 100, 100, 10, 10, np.ones(3)), saves=("bytes",)), 10, {1: 1, 2: 2})
    with pytest.raises(ValueError, match="a: spatial_svd does not save latency at any rank"):
        allocate(network(codebook), latency=0.5)


def test_ranks_by_hand_count_with_their_times_where_these_were_measured():
    plan = allocate(three(), "knapsack", latency_ms=9, ranks={"conv1": 2})
    assert plan.ranks == {"conv1": 2, "conv2": 3, "fc": None, "(time outside layers)": None}
    assert plan.predicted_ms == 7.0
    shape = LayerShape.of(nn.Conv2d(4, 4, 3), [(1, 4, 3, 3)])
    conv1 = replace(three()["conv1"], shape=shape, dense=Cost(5000, 900, latency=10 * MS))
    layers = three() | {"conv1": conv1}
    with pytest.raises(ValueError, match=r"conv1: how long rank 3 takes, set by hand, was not measured, .*\[2, 4, 8\]"):
        allocate(layers, "knapsack", latency=0.5, ranks={"conv1": 3})
    with pytest.raises(ValueError, match=r"conv1: how long rank 9 takes, set by hand, was not measured"):
        allocate(layers, "knapsack", latency=0.5, ranks={"conv1": 9})
    assert allocate(layers, "fixed", ranks={"conv1": 9}).layers["conv1"].latency_after is None
    with pytest.raises(ValueError, match="conv1: rank 13 set by hand is above the full rank; spatial_svd takes an int"):
        allocate(layers, "fixed", ranks={"conv1": 13})


def test_several_reasons_are_that_of_the_fastest_decomposition():
    slow = timed(by_hand("a", "conv", 100, 100, "cp", np.array([10]), np.array([10]), np.ones((1, 1))), MS, {1: 3 * MS})
    fast = timed(layer("a", 100, 100, 10, 10, [1.0]), MS, {1: 2 * MS})
    plan = allocate(network(joined(slow, fast), *three().values()), "knapsack", latency=0.5)
    assert plan.layers["a"].reason == "no rank is faster than dense: rank 1 takes 2 of 1 ms by spatial_svd"


def test_beside_macs_a_layer_says_in_what_it_would_not_be_cheaper():
    dear = timed(layer("fc", 60, 60, 70, 10, [2, 1]), 5 * MS, {1: 6 * MS})
    plan = allocate(three() | {"fc": dear}, "knapsack", latency=0.6, macs=0.7)
    assert plan.layers["fc"].reason == "no rank is cheaper than dense: rank 1 has 70 of 60 macs and takes 6 of 5 ms"


def test_reachable_times():
    assert reachable(three())["latency"] == Reach(4 / 18, 11 / 18, 1.0)
    assert "latency" not in reachable(network(layer("a", 100, 100, 10, 10, [2, 1])))


def test_candidates_need_no_times():
    rank = functools.partial(allocate, policy="knapsack", latency=0.5, macs=None)
    assert candidates(network(layer("a", 100, 100, 10, 10, [2, 1])), rank) == ["a"]


def test_a_plan_keeps_its_times_in_a_file_and_replays_without_any(tmp_path):
    plan = replace(allocate(three(), "knapsack", latency=0.5), measured_ms=9.25, measured_dense_ms=18.5)
    path = tmp_path / "plan.yaml"
    plan.write(path)
    text = path.read_text()
    assert "\npredicted_ms: 9.0\ndense_ms: 18.0\nmeasured_ms: 9.25\nmeasured_dense_ms: 18.5\n" in text
    read = Plan.read(path)
    assert read == plan
    assert (read.predicted_ms, read.remaining("latency")) == (9.0, 0.5)
    replayed = allocate(untimed(), "fixed", ranks=path)
    assert replayed.ranks == {name: rank for name, rank in plan.ranks.items() if name in untimed()}
    assert (replayed.runtime, replayed.predicted_ms) == (None, None)
    with pytest.raises(
        ValueError, match="conv1: its time was not measured, so what remains of the network's is not kn"
    ):
        replayed.remaining("latency")
    replayed.write(path)
    assert "latency" not in path.read_text()
    assert "_ms" not in path.read_text()
    assert "runtime" not in path.read_text()
