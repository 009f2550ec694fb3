import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from lowrank_exp.pruning.combine import normalise, normalise_by_l2, rank_scores, take_off_costs, weighted_sum
from lowrank_exp.pruning.correlation import measure_agreement


def scores(seed=0):
    generator = np.random.default_rng(seed)
    return {name: torch.from_numpy(generator.normal(size=n) * scale) for name, n, scale in (("a", 7, 1), ("b", 5, 100))}


def test_normalisation_is_that_of_each_layer_and_scale_free():
    given = scores()
    got = normalise_by_l2(given)
    for name, s_O in given.items():
        np.testing.assert_allclose(got[name], s_O.numpy() / np.sqrt((s_O.numpy() ** 2).sum()))
    scaled = normalise_by_l2({"a": given["a"] * 1e6, "b": given["b"]})
    torch.testing.assert_close(scaled["a"], got["a"])
    assert normalise_by_l2({"a": torch.zeros(3)})["a"].tolist() == [0, 0, 0]


def test_ranks_by_scipy():
    given = scores()
    given["a"][3] = given["a"][4]
    of_layer, of_all = rank_scores(given), rank_scores(given, over="all")
    every = rankdata(np.concatenate([s_O.numpy() for s_O in given.values()])) / 12
    for name, s_O in given.items():
        np.testing.assert_allclose(of_layer[name], rankdata(s_O.numpy()) / len(s_O))
    np.testing.assert_allclose(np.concatenate([s_O.numpy() for s_O in of_all.values()]), every)
    assert of_layer["a"][3] == of_layer["a"][4]
    for form, expected in (("layer_rank", of_layer), ("rank", of_all), ("l2", normalise_by_l2(given)), ("none", given)):
        got = normalise(given, form)
        assert all(torch.equal(got[name], expected[name]) for name in given)


def test_costs_and_sums():
    given = scores()
    got = take_off_costs(given, {"a": 30.0, "b": 2.0}, weight=0.1)
    torch.testing.assert_close(got["a"], given["a"] - 3)
    torch.testing.assert_close(got["b"], given["b"] - 0.2)
    default = take_off_costs(given, {"a": 30.0, "b": 2.0})
    torch.testing.assert_close(default["a"], given["a"] - 0.03)
    both = weighted_sum([given, scores(1)], [2.0, -1.0])
    for name in given:
        torch.testing.assert_close(both[name], 2 * given[name] - scores(1)[name])


def test_agreement_by_scipy_and_by_the_papers_formula():
    given, true = scores(), scores(1)
    found = measure_agreement(given, true)
    for name, s_O in given.items():
        N = len(s_O)
        d = rankdata(s_O.numpy()) - rankdata(true[name].numpy())
        assert found.layers[name] == pytest.approx(1 - 6 * (d**2).sum() / (N * (N**2 - 1)))
    assert found.per_layer == pytest.approx(sum(found.layers.values()) / 2)
    every = torch.cat(list(true.values())).numpy()
    assert found.raw == pytest.approx(spearmanr(torch.cat(list(given.values())).numpy(), every).statistic)
    flat = torch.cat(list(normalise_by_l2(given).values())).numpy()
    assert found.normalised == pytest.approx(spearmanr(flat, every).statistic)
    assert found.raw != pytest.approx(found.normalised)


def test_layers_without_a_ranking_have_no_correlation():
    found = measure_agreement(
        {"a": torch.ones(3), "b": torch.tensor([1.0, 2.0])}, {"a": torch.arange(3.0), "b": torch.arange(2)}
    )
    assert found.layers == {"a": None, "b": pytest.approx(1.0)}
    assert found.per_layer == pytest.approx(1.0)
    alone = measure_agreement({"a": torch.ones(1)}, {"a": torch.ones(1)})
    assert (alone.per_layer, alone.raw, alone.normalised) == (None, None, None)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: normalise(scores(), "l1"), "form='l1' is not known: none or l2 or layer_rank or rank"),
        (lambda: rank_scores(scores(), over="block"), "over='block' is not known"),
        (lambda: take_off_costs(scores(), {"a": 1.0}), "b has no cost"),
        (lambda: weighted_sum([scores()], [1.0, 2.0]), "got 1 criteria and 2 weights"),
        (lambda: weighted_sum([scores(), {"a": torch.ones(7)}], [1.0, 2.0]), "do not score the same layers"),
        (lambda: measure_agreement({"a": torch.ones(2)}, {"b": torch.ones(2)}), "no layer in common"),
        (lambda: measure_agreement({"a": torch.ones(2)}, {"a": torch.ones(3)}), "2 scores, but 3 of the oracle"),
    ],
)
def test_mistakes_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()
