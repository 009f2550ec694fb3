import numpy as np
import pytest

from lowrank_exp.rank import allocate, needs, with_accuracy
from lowrank_exp.rank.measure import sampled_rungs
from lowrank_exp.rank.policies.enc_inf import enc_inf
from support.cells import cells
from support.profiles import layer, network


def two_layers():
    """r_max is 10 and 3."""
    return network(
        layer("a", 100, 100, 10, 10, np.linspace(2, 1, 12)), layer("b", 90, 90, 30, 30, np.ones(4)), refused()
    )


def refused():
    return layer("no", 10, 10, 1, 1, [], refusal="tied")


def asked(layers, **options):
    seen = []

    def score(ranks):
        seen.append({name: choice.rank for name, choice in ranks.items()})
        return 0.5 + 0.01 * sum(seen[-1].values())

    return with_accuracy(layers, score, **options), seen


def test_every_layer_alone_is_cut_to_evenly_spaced_ranks_up_to_r_max():
    layers, seen = asked(two_layers(), samples=4)
    assert seen == [{"a": 2}, {"a": 5}, {"a": 8}, {"a": 10}, {"b": 1}, {"b": 2}, {"b": 3}]
    assert layers["a"].sampled_ranks == (2, 5, 8, 10)
    assert layers["a"].sampled_accuracy.tolist() == pytest.approx([0.52, 0.55, 0.58, 0.6])
    assert layers["no"].sampled_ranks == ()
    assert two_layers()["a"].sampled_ranks == ()


def test_the_other_layers_may_be_at_their_highest_ranks():
    _, seen = asked(two_layers(), samples=2, others="highest")
    assert seen == [{"a": 5, "b": 3}, {"a": 10, "b": 3}, {"a": 10, "b": 2}, {"a": 10, "b": 3}]


def test_policies_take_what_was_measured():
    layers, _ = asked(two_layers(), samples=4)
    plan = allocate(layers, "enc_map", metric="measured", macs=0.5, rules={"no": None})
    assert plan.remaining("macs") == pytest.approx(0.5, rel=0.01)


def test_rungs_of_a_layer_with_one_rank():
    assert sampled_rungs(layer("a", 10, 10, 10, 10, [1.0]), 8) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples=1 is not a number of ranks"),
        ({"samples": True}, "samples=True is not a number of ranks"),
        ({"others": "none"}, "others='none' is not known: dense or highest"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        with_accuracy(two_layers(), lambda ranks: 1.0, **options)


@pytest.mark.parametrize("score", [-0.1, float("nan")])
def test_a_score_must_be_a_number_from_0(score):
    with pytest.raises(ValueError, match="a: the score at rank 1 must be 0 or more"):
        with_accuracy(two_layers(), lambda ranks: score)


@cells(
    ("policy", "options", "wanted"),
    [
        ("uniform", {}, set()),
        ("enc_map", {}, set()),
        ("enc_map", {"metric": "measured"}, {"accuracy"}),
        ("enc_model", {}, {"accuracy"}),
        ("enc_model", {"metric": "A_p"}, set()),
        ("enc_model", {"metric": "A_p", "curve": "measured"}, {"accuracy"}),
        ("enc_inf", {"metric": "A_p"}, {"score"}),
        ("enc_inf", {}, {"score", "accuracy"}),
        (enc_inf, {}, {"score", "accuracy"}),
        ("knapsack", {}, {"errors"}),
        ("knapsack", {"metric": "sensitivity"}, {"sensitivity"}),
        ("greedy_eval", {}, {"accuracy"}),
    ],
)
def test_what_policies_need(policy, options, wanted):
    assert needs(policy, options) == wanted


def test_an_unknown_policy_needs_nothing_but_a_better_name():
    with pytest.raises(ValueError, match="unknown rank policy 'enc'; known: alds, c_step"):
        needs("enc", {})


def test_the_score_is_of_the_whole_network():
    """A policy is asked about candidates, the score about ranks set by hand too."""
    seen = []
    with pytest.warns(UserWarning, match="one rank set alone"):  # one layer is free
        allocate(
            two_layers(),
            "enc_inf",
            metric="A_p",
            macs=0.5,
            fixed={"b": 1},
            score=lambda ranks: seen.append(dict(ranks)) or 0.0,
        )
    assert seen
    assert all(ranks.keys() == {"a", "b", "no"} and ranks["b"] == 1 and ranks["no"] is None for ranks in seen)


def test_a_policy_that_scores_asks_for_the_score():
    with pytest.raises(ValueError, match="enc_inf looks at the network's score: pass score"):
        allocate(two_layers(), "enc_inf", metric="A_p", macs=0.5)
