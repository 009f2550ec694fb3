"""Several decompositions to choose from: knapsack against all combinations, and what a plan carries of the choice."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, load, measure, save
from lowrank_exp.decomposition import ChannelSVD, Decompositions, GroupedChannelSVD, LinearSVD, SpatialSVD, named
from lowrank_exp.rank import Choice, Plan, allocate, declares, profile, with_sensitivity
from support.profiles import by_hand
from support.profiles import joined as of_all

IMAGE = torch.zeros(1, 4, 12, 12)
THREE = ["channel_svd", "spatial_svd", "tucker2"]


def network():
    """Layer 0 nearly separable in space, layer 4 nearly of low Tucker rank, layer 2 random."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(4, 24, 3), nn.ReLU(), nn.Conv2d(24, 20, 3, stride=2), nn.ReLU(), nn.Conv2d(20, 32, 3)]
    with torch.no_grad():
        convolutions[0].weight += torch.einsum("irh,orw->oihw", torch.rand(4, 3, 3) - 0.5, torch.rand(24, 3, 3) - 0.5)
        core = torch.einsum("oa,abhw->obhw", torch.rand(32, 8) - 0.5, torch.rand(8, 5, 3, 3) - 0.5)
        convolutions[4].weight += torch.einsum("obhw,ib->oihw", core, torch.rand(20, 5) - 0.5)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 4, 10))


@pytest.fixture(scope="module")
def joined():
    """The profiles by three decompositions, with sensitivities."""
    batches = [(torch.randn(30, 4, 12, 12, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 10)]
    return with_sensitivity(profile(network(), IMAGE, THREE), network(), batches)


def alone(layers, decomposition):
    """The profiles by one of the decompositions."""
    of_layers = {name: layer.alternatives for name, layer in layers.items()}
    found = {name: [one for one in of if one.decomposition == decomposition] for name, of in of_layers.items()}
    return {name: (found[name] or of_layers[name])[0] for name in layers}


def options_of(layer, metric):
    """MACs and losses of all cheaper ranks by all decompositions, and of dense."""
    costs, losses = [[layer.macs]], [[0.0]]
    for one in layer.alternatives:
        cheaper = one.rank_macs < one.macs
        costs.append(one.rank_macs[cheaper])
        losses.append(getattr(one, metric)[cheaper])
    return np.concatenate(costs), np.concatenate(losses)


def brute_force(layers, budget, metric="error"):
    """The lowest total loss within the budget of all combinations, and the share of the budget that it costs."""
    every = [options_of(layer, metric) for layer in layers.values()]
    cost = sum(np.ix_(*(costs for costs, _ in every)))
    loss = sum(np.ix_(*(losses for _, losses in every)))
    limit = budget * sum(layer.macs for layer in layers.values())
    best = np.where(cost <= limit, loss, np.inf).argmin()
    return loss.ravel()[best], cost.ravel()[best] / limit


def total(layers, plan, metric="error"):
    """The loss of a plan, in the order of the network."""
    lost = 0.0
    for name, planned in plan.layers.items():
        if planned.rank is not None:
            every = layers[name].alternatives
            (one,) = [o for o in every if (o.decomposition, o.options) == (planned.decomposition, planned.options)]
            lost += getattr(one, metric)[one.ranks.index(planned.rank)]
    return lost


@pytest.mark.parametrize("metric", ["error", "sensitivity"])
@pytest.mark.parametrize("budget", [0.2, 0.3, 0.45, 0.65])
def test_the_optimum_is_that_of_all_combinations(joined, metric, budget):
    best, cost = brute_force(joined, budget, metric)
    assert 0.99 < cost <= 1  # so that neither more is allowed nor single ranks fill up
    plan = allocate(joined, "knapsack", macs=budget, metric=metric)
    assert total(joined, plan, metric) == pytest.approx(best, rel=1e-9)
    assert 0.99 < plan.remaining("macs") / budget <= 1
    assert len({layer.decomposition for layer in plan.layers.values()} - {None, "linear_svd"}) > 1


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_of_layers_by_hand_is_that_of_all_combinations(seed):
    """Two layers, two decompositions, whose ranks cost less than 1 % of the budget."""
    generator = np.random.default_rng(seed)
    layers = {}
    for name in "ab":
        both = []
        for kind in ("channel_svd", "spatial_svd"):
            costs = np.cumsum(generator.integers(1, 5, 150))
            spectrum = np.exp(-np.arange(1, 151) / generator.uniform(20, 60))[None]
            both.append(by_hand(name, "conv", 350, 350, kind, costs, costs, spectrum))
        layers[name] = of_all(*both)
    for budget in (0.65, 0.8):
        best, cost = brute_force(layers, budget)
        assert 0.99 < cost <= 1
        assert total(layers, allocate(layers, "knapsack", macs=budget)) == pytest.approx(best, rel=1e-9)
        reverse = {n: of_all(*reversed(l.alternatives)) for n, l in reversed(layers.items())}
        assert allocate(reverse, "knapsack", macs=budget).ranks == allocate(layers, "knapsack", macs=budget).ranks


def test_where_the_optimum_leaves_more_than_one_percent_the_best_that_meets_the_budget_is_taken():
    """The least error of 100 units is 0.1 + 0.5 at 60 + 30 of them; 0.5 + 0.15 at 30 + 70 is next, 0.1 + 0.65 third."""

    def one(name, kind, cost, errors):
        costs = np.array(cost)
        kept = {"kept": 1 - np.array(errors)}
        return by_hand(name, "conv", 150, 150, kind, costs, costs, np.zeros((1, 0)), **kept)

    a = one("a", "tucker2", [30, 60], [0.5, 0.1])
    b = of_all(one("b", "tucker2", [30], [0.5]), one("b", "cp", [40, 70], [0.65, 0.15]))
    plan = allocate({"a": a, "b": b}, "knapsack", macs=100 / 300)
    assert [(layer.decomposition, layer.rank) for layer in plan.layers.values()] == [("tucker2", 1), ("cp", 2)]
    b = of_all(b.alternatives[0], one("b", "cp", [40, 71], [0.65, 0.55]))  # now it is a that gets more
    plan = allocate({"a": a, "b": b}, "knapsack", macs=100 / 300)
    assert [(layer.decomposition, layer.rank) for layer in plan.layers.values()] == [("tucker2", 2), ("cp", 1)]


@pytest.mark.parametrize("kind", THREE)
def test_a_list_of_one_is_that_one(kind):
    one, plain = profile(network(), IMAGE, [kind]), profile(network(), IMAGE, kind)
    for budget in (0.3, 0.5):
        assert allocate(one, "knapsack", macs=budget) == allocate(plain, "knapsack", macs=budget)
        assert allocate(one, "uniform", macs=budget) == allocate(plain, "uniform", macs=budget)


@pytest.mark.parametrize("metric", ["error", "sensitivity"])
def test_more_to_choose_from_is_never_worse(joined, metric):
    for budget in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):  # at which the optimum meets the budget
        best = total(joined, allocate(joined, "knapsack", macs=budget, metric=metric), metric)
        for kind in THREE:
            plan = allocate(alone(joined, kind), "knapsack", macs=budget, metric=metric)
            if plan.remaining("macs") <= budget:  # else it was allowed more
                assert best <= total(joined, plan, metric) + 1e-12


def test_a_quality_of_ones_own_compares_decompositions(joined):
    """Those who pay for the others get spatial SVD alone."""

    def spatial(layer):
        return -layer.error - 10 * (layer.decomposition in ("channel_svd", "tucker2"))

    plan = allocate(joined, "knapsack", macs=0.4, metric=spatial)
    alone_best, cost = brute_force(alone(joined, "spatial_svd"), 0.4)
    assert cost > 0.99
    assert {layer.decomposition for layer in plan.layers.values()} == {"spatial_svd", None}
    assert total(joined, plan) == pytest.approx(alone_best, rel=1e-9)


# What a plan carries


def test_a_plan_names_decompositions_and_the_network_gets_them(joined, tmp_path):
    plan = allocate(joined, "knapsack", macs=0.4)
    dense, model = network(), factorize_(network(), plan)
    for name, planned in plan.layers.items():
        if planned.rank is None:
            assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)
            continue
        wanted = named(planned.decomposition, **planned.options).factorize(dense.get_submodule(name), planned.rank)
        found = model.get_submodule(name).state_dict()
        assert list(found) == list(wanted.state_dict())
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.state_dict().items())
    after = measure(model, IMAGE, seconds=0)
    assert after.macs == sum(layer.macs_after for layer in plan.layers.values())
    assert after.weights == sum(layer.weights_after for layer in plan.layers.values())
    save(model, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt", model=network())
    image = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(image), model(image))


def test_a_plan_in_a_file_says_which_decomposition(joined, tmp_path):
    plan = allocate(joined, "knapsack", macs=0.4)
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == plan
    for again in (tmp_path / "plan.yaml", plan):
        replayed = allocate(joined, "fixed", ranks=again)
        assert replayed.ranks == plan.ranks
        assert [one.decomposition for one in replayed.layers.values()] == [
            one.decomposition for one in plan.layers.values()
        ]
        assert replayed.remaining("macs") == plan.remaining("macs")
    with pytest.raises(
        ValueError, match=r"the plan decomposes 0 by spatial_svd, here it is cp with .*: set the same decomposition"
    ):
        allocate(profile(network(), IMAGE, "cp"), "fixed", ranks=plan)


def test_a_plan_of_grouped_splits_keeps_their_number(tmp_path):
    kinds = {"conv": [GroupedChannelSVD(1), GroupedChannelSVD(2), GroupedChannelSVD(4)]}
    layers = profile(network(), IMAGE, kinds)
    plan = allocate(layers, "alds", macs=0.4, bound="code")
    groups = {
        name: one.options["groups"]
        for name, one in plan.layers.items()
        if one.decomposition != "linear_svd" and one.rank
    }
    assert max(groups.values()) > 1
    plan.write(tmp_path / "plan.yaml")
    assert allocate(layers, "fixed", ranks=tmp_path / "plan.yaml").remaining("macs") == plan.remaining("macs")
    model = factorize_(network(), Plan.read(tmp_path / "plan.yaml"))
    assert {name: model.get_submodule(name)[0].groups for name in groups} == groups
    with pytest.raises(ValueError, match=r"by grouped_channel_svd with {'groups': \d}, here it is channel_svd: set"):
        allocate(profile(network(), IMAGE, "channel_svd"), "fixed", ranks=plan)


# Who may choose what


def test_what_one_decomposition_refuses_gets_the_other():
    kinds = [GroupedChannelSVD(3), SpatialSVD()]  # of 4, 24 and 20 input channels 3 divides 24
    layers = profile(network(), IMAGE, {"conv": kinds, "linear": None})
    offered = {name: [one.decomposition for one in l.alternatives] for name, l in layers.items() if not l.refusal}
    both = ["grouped_channel_svd", "spatial_svd"]
    assert offered == {"0": ["spatial_svd"], "2": both, "4": ["spatial_svd"]}
    plan = allocate(layers, "knapsack", macs=0.5)
    assert plan.layers["0"].decomposition in ("spatial_svd", None)
    refused = profile(network(), IMAGE, {"conv": [GroupedChannelSVD(3), GroupedChannelSVD(7)], "linear": None})["4"]
    assert refused.refusal == (
        "grouped_channel_svd splits the in channels into 3, which does not divide 20; "
        "grouped_channel_svd splits the in channels into 7, which does not divide 20"
    )


def test_what_is_not_cheaper_by_one_decomposition_gets_the_other():
    """9 channels to 1 by 3 x 3, 81 weights: rank 1 of channel SVD has 81 + 1, of spatial SVD 27 + 3."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 9, 1), nn.Conv2d(9, 1, 3, bias=False))
    layers = profile(model, torch.zeros(1, 2, 8, 8), ["channel_svd", "spatial_svd"])
    assert [one.rank_weights[0] for one in layers["1"].alternatives] == [82, 30]
    plan = allocate(layers, "knapsack", weights=48 / 99)
    assert (plan["0"], plan["1"]) == (None, 1)
    assert plan.layers["1"].decomposition == "spatial_svd"
    nothing = allocate(profile(model, torch.zeros(1, 2, 8, 8), "channel_svd"), "knapsack", weights=1.0)
    assert nothing.layers["1"].reason == "no rank is cheaper than dense: rank 1 has 82 of 81 weights"


def test_exceptions_may_be_lists_too():
    layers = profile(network(), IMAGE, {"conv": "spatial_svd", "layers": {"2": ["channel_svd", "tucker2"], "4": []}})
    assert [one.decomposition for one in layers["2"].alternatives] == ["channel_svd", "tucker2"]
    assert len(layers["0"].offers) == 1
    assert layers["4"].refusal == "left alone by decomposition.layers"


def test_rules_and_multiples_hold_for_every_decomposition(joined):
    plan = allocate(joined, "knapsack", macs=0.6, rules={"2": {"min": 3, "max": 6}, "0": None})
    numbers = plan["2"] if isinstance(plan["2"], tuple) else (plan["2"],)
    assert all(3 <= number <= 6 for number in numbers)
    assert plan.layers["0"].reason == "left alone by a rule"
    plan = allocate(joined, "knapsack", macs=0.58, multiple=4, rules={"6": None})
    for rank in plan.ranks.values():
        assert rank is None or all(number % 4 == 0 for number in (rank if isinstance(rank, tuple) else (rank,)))
    # Of layer 4 channel SVD has no rank of 33 and more, and Tucker-2 none that is cheaper.
    plan = allocate(joined, "knapsack", weights=0.9, rules={"4": {"min": 33, "max": 40}})
    assert plan.layers["4"].decomposition == "spatial_svd"
    assert 33 <= plan["4"] <= 40
    with pytest.raises(ValueError, match="the rule for 4 asks for at least 61, above its full rank 32"):
        allocate(joined, "knapsack", weights=0.9, rules={"4": {"min": 61}})


@pytest.mark.parametrize("policy", ["uniform", "energy", "operator_norm", "enc_map", "enc_model"])
def test_policies_that_do_not_choose_refuse_several(joined, policy):
    with pytest.raises(
        ValueError,
        match=rf"0 may be decomposed by channel_svd, spatial_svd, tucker2, and {policy} does not choose among "
        r"decompositions: give one, or take a policy that does \(alds, knapsack; one of your own "
        r"says so by `chooses = True`\)",
    ):
        allocate(joined, policy, macs=0.5)


@pytest.mark.parametrize("metric", ["energy", "measured"])
def test_metrics_that_do_not_compare_refuse_several(joined, metric):
    with pytest.raises(
        ValueError, match=f"metric='{metric}' does not compare between the decompositions of 0: take error, r"
    ):
        allocate(joined, "knapsack", macs=0.5, metric=metric)


def test_a_bare_rank_by_hand_does_not_say_by_which(joined):
    named_by = "may be decomposed by channel_svd, spatial_svd, tucker2: name one of them in decomposition.layers"
    with pytest.raises(ValueError, match=f"0 has rank 2 set by hand, but {named_by}"):
        allocate(joined, "knapsack", macs=0.5, ranks={"0": 2})
    with pytest.raises(ValueError, match=f"0 has rank 2 set by a rule, but {named_by}"):
        allocate(joined, "knapsack", macs=0.5, rules={"0": 2})
    with pytest.raises(
        ValueError, match="0 may be decomposed by channel_svd, spatial_svd, tucker2: ranks alone do not"
    ):
        factorize_(network(), {"0": 2}, THREE)
    assert allocate(joined, "knapsack", macs=0.5, ranks={"0": None})["0"] is None
    assert allocate(joined, "knapsack", macs=0.5, ranks={"6": 2})["6"] == 2  # linear SVD alone


def test_a_policy_of_ones_own_may_choose(joined):
    def lowest_tucker(problem):
        """Declared below, so that it is refused before."""
        offers = [(c.profile.name, one) for c in problem.candidates for one in (c, *c.others)]
        return {name: Choice(one.profile, one.ranks[0]) for name, one in offers}

    with pytest.raises(ValueError, match="lowest_tucker does not choose among decompositions: give one, or take a pol"):
        allocate(joined, lowest_tucker)
    lowest_tucker.chooses = True
    plan = allocate(joined, lowest_tucker)
    assert [one.decomposition for one in plan.layers.values()] == ["tucker2", "tucker2", "tucker2", "linear_svd"]
    other = profile(network(), IMAGE, "spatial_svd")

    @declares(chooses=True)
    def stranger(problem):
        return {c.profile.name: Choice(other[c.profile.name], 1) for c in problem.candidates}

    with pytest.raises(ValueError, match="stranger policy returned a decomposition for 0 that it was not offered"):
        allocate(joined, stranger)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["spatial_svd", "spatial_svd"], "spatial_svd with the options {} is listed twice"),
        (["channel_svd", ChannelSVD()], "channel_svd with the options {} is listed twice"),
        ({"conv": [GroupedChannelSVD(2), GroupedChannelSVD(2)]}, r"grouped_channel_svd .* {'groups': 2} is listed"),
        ({"linear": [LinearSVD(), "linear_svd"]}, "linear_svd with the options {} is listed twice"),
        (["spatial_svd", 3], "a decomposition is a name, a Decomposition or a list of them, got 3"),
    ],
)
def test_wrong_lists_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Decompositions.of(given)


def test_other_options_are_another_decomposition():
    some = Decompositions.of([ChannelSVD(), ChannelSVD("pointwise_first")])
    assert [kind.order for kind in some.conv] == ["kernel_first", "pointwise_first"]
    assert [kind.name for kind in some.linear] == ["linear_svd"]
