import json
import re

import numpy as np
import pytest

from lowrank_exp.rank import allocate
from lowrank_exp.rank.enc.files import profiles_from_enc
from support.enc_cases import FOLDER, PUBLISHED, problem, vgg16
from support.profiles import enc_vgg16

R_MAX = [19, 96, 128, 192, 256, 384, 384, 512, 768, 768, 768, 768, 768]


def test_layers_are_those_of_the_architecture():
    layers, architecture = vgg16(), enc_vgg16()
    assert list(layers) == list(architecture)
    assert [layer.r_max for layer in layers.values()] == R_MAX
    assert [layer.full_rank for layer in layers.values()] == R_MAX
    assert {layer.kind for layer in layers.values()} == {"conv"}
    assert [layer.decomposition for layer in layers.values()] == ["channel_svd"] + ["spatial_svd"] * 12
    for name, layer in layers.items():
        r_max = layer.r_max
        np.testing.assert_array_equal(layer.rank_macs, architecture[name].rank_macs[:r_max])
        np.testing.assert_array_equal(layer.rank_weights, architecture[name].rank_weights[:r_max])
        assert (layer.macs, layer.weights) == (layer.rank_macs[-1], layer.rank_weights[-1])
    assert sum(layer.macs for layer in layers.values()) == 15_346_680_832
    assert sum(layer.weights for layer in layers.values()) == 14_710_465


def test_spectra_and_measurements():
    layers = vgg16()
    sums = {"conv1_1": 21.3018, "conv3_2": 130.3885, "conv5_1": 305.6995, "conv5_3": 290.2210}
    for name, total in sums.items():
        assert layers[name].singular_values.sum() == pytest.approx(total, abs=5e-5)
        assert layers[name].singular_values.shape == (1, layers[name].r_max)
    assert layers["conv1_2"].sampled_ranks == (10, 14, 18, 36, 96)
    assert layers["conv5_3"].sampled_ranks == (77, 125, 173, 346, 768)
    # The network with every layer at r_max has about 8980 right of 10,000.
    right = np.array([layer.sampled_accuracy * 8980 for layer in layers.values()]).T
    assert right.round().astype(int).tolist() == [
        [7557, 8691, 6282, 7589, 6813, 5804, 8125, 8468, 8698, 8397, 8214, 8061, 8151],
        [7948, 8888, 8692, 8681, 8697, 8897, 8528, 8811, 8862, 8732, 8649, 8532, 8625],
        [8194, 8975, 8969, 8909, 8922, 8954, 8818, 8943, 8938, 8869, 8820, 8755, 8830],
        [8977, 8984, 8979, 8971, 8972, 8974, 8970, 8978, 8988, 8964, 8969, 8948, 8952],
        [8980] * 13,
    ]
    np.testing.assert_allclose(right, right.round(), atol=0.02)


@pytest.mark.parametrize(
    ("file", "what", "network"), [("C_norm", "macs", 15_346_630_656), ("W_norm", "weights", 14_710_464)]
)
def test_costs_at_the_sampled_ranks_are_those_of_encs_other_files(file, what, network):
    """They are relative to the dense network's."""
    costs = [getattr(one, f"rank_{what}")[np.array(one.sampled_ranks) - 1] / network for one in vgg16().values()]
    np.testing.assert_allclose(np.transpose(costs), np.loadtxt(FOLDER / f"{file}.txt"), rtol=1e-11)
    ratios = [np.divide(one.sampled_ranks, one.r_max) for one in vgg16().values()]
    np.testing.assert_allclose(np.transpose(ratios), np.loadtxt(FOLDER / "R_norm.txt"), rtol=1e-11)


@pytest.mark.parametrize(
    ("budget", "ranks", "macs", "weights"),
    [
        (0.25, PUBLISHED["uniform"], 0.250074, 0.250002),
        (0.2, [4, 19, 26, 38, 51, 77, 77, 102, 154, 154, 154, 154, 154], 0.199950, 0.200372),
    ],
)
def test_uniform_costs_what_enc_says(budget, ranks, macs, weights):
    plan = allocate(vgg16(), "uniform", macs=budget)
    assert list(plan.values()) == ranks
    assert plan.remaining("macs") == pytest.approx(macs, abs=5e-7)
    assert plan.remaining("weights") == pytest.approx(weights, abs=5e-7)


def test_every_layer_gets_a_rank():
    assert list(allocate(vgg16(), "uniform", macs=1).values()) == R_MAX
    assert list(allocate(vgg16(), "energy", share=1).values()) == R_MAX
    plan = allocate(vgg16(), "uniform", macs=0.5, rules={"conv1_1": {"min": 7, "max": 8}, "conv5_3": {"min": 700}})
    assert plan["conv1_1"] == 8
    assert plan["conv5_3"] == 700


@pytest.mark.parametrize("ranks", PUBLISHED.values(), ids=PUBLISHED)
def test_a_budget_taken_from_a_cost_is_met_exactly(ranks):
    layers = vgg16()
    cost = sum(int(layer.rank_macs[rank - 1]) for layer, rank in zip(layers.values(), ranks, strict=True))
    for factor in (1 + 1e-9, 1, 1 - 5e-13):
        given = problem(layers, macs=cost / 15_346_680_832 * factor)
        assert given.fits([rank - 1 for rank in ranks])
        assert given.met([rank - 1 for rank in ranks])


def small(folder, **changes):
    """Files of three layers whose names are not in network order; the second has two groups."""
    files = {
        "Net_def.txt": "3 4 8 1 10 3 20 2000 1 \n4 6 8 2 10 3 60 600 1\n8 5 10 1 1 1 90 90 1\n",
        "R_list.txt": "1 2 2 \n4 6 5 \n",
        "A_norm.txt": "0.4 0.3 0.2\n0.8 0.5 1.0\n",
        "eigenvalue.conf": json.dumps(
            {
                "layer": {"c": 0, "a": 1, "b": 2},
                "eigen": {"a": [[6, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1]], "b": [5, 4, 3, 2, 1], "c": [4, 3, 2, 1]},
            }
        ),
    }
    for name, content in (files | changes).items():
        if content is not None:
            (folder / name).write_text(content)
    return folder


def test_order_groups_linear_layers_and_accuracies_that_do_not_end_at_one(tmp_path):
    layers = profiles_from_enc(small(tmp_path))
    assert list(layers) == ["c", "a", "b"]
    assert [layer.kind for layer in layers.values()] == ["conv", "conv", "linear"]
    assert [layer.decomposition for layer in layers.values()] == ["channel_svd", "spatial_svd", "linear_svd"]
    assert layers["a"].singular_values.tolist() == [[6, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1]]
    assert layers["c"].rank_macs.tolist() == [500, 1000, 1500, 2000]
    assert layers["b"].rank_weights.tolist() == [18, 36, 54, 72, 90]
    assert layers["c"].sampled_accuracy.tolist() == [0.5, 1.0]
    assert layers["a"].sampled_ranks == (2, 6)


def test_a_rank_that_was_sampled_twice_is_one_sample(tmp_path):
    """As a layer of few ranks has it, of which the same share is asked as of all."""
    ranks = {"R_list.txt": "1 1 2\n2 2 3\n2 4 4\n4 6 5\n"}
    layers = profiles_from_enc(
        small(tmp_path, **ranks, **{"A_norm.txt": "0.2 .1 .2\n0.4 .3 .4\n0.4 .3 .6\n0.8 .5 1\n"})
    )
    assert layers["c"].sampled_ranks == (1, 2, 4)
    assert layers["c"].sampled_accuracy.tolist() == [0.25, 0.5, 1.0]
    assert layers["a"].sampled_ranks == (1, 2, 4, 6)
    plan = allocate(layers, "enc_map", macs=0.6, metric="measured")
    assert plan.remaining("macs") == pytest.approx(0.6, abs=0.006)
    differing = {"A_norm.txt": "0.2 .1 .2\n0.4 .3 .4\n0.6 .3 .6\n0.8 .5 1\n"}
    with pytest.warns(
        UserWarning, match=r"c: ranks .* different accuracies, and their mean is taken: {2: \[0.4, 0.6\]}"
    ):
        layers = profiles_from_enc(small(tmp_path, **ranks, **differing))
    assert layers["c"].sampled_accuracy.tolist() == pytest.approx([0.25, 0.625, 1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Net_def.txt": "3 4 8\n"}, "Net_def.txt needs at least 8 columns, it has 3"),
        ({"Net_def.txt": "3 4 8 1 10 3 20 2000 1\n"}, "eigenvalue.conf has 3 layers .*'Net_def.txt': 1"),
        ({"R_list.txt": "1 2 2 \n"}, "1 samples, .* and 2 samples in A_norm.txt"),
        (
            {"R_list.txt": "1 2 2 \n3 6 5 \n"},
            r"c: the sampled ranks must rise, or repeat, from 1 or more to r_max=4, got \[1, 3\]",
        ),
        (
            {"R_list.txt": "2 2 2 \n1 4 3 \n4 6 5 \n", "A_norm.txt": "1 1 1\n" * 3},
            r"c: the sampled ranks must rise, or repeat",
        ),
        ({"R_list.txt": "0 2 2 \n4 6 5 \n"}, r"c: the sampled ranks must rise, .* got \[0, 4\]"),
        ({"R_list.txt": "one 2 2 \n"}, "R_list.txt is not a table of numbers"),
        (
            {"Net_def.txt": "3 4 8 1 10 3 21 2000 1\n4 6 8 2 10 3 60 600 1\n8 5 10 1 1 1 90 90 1\n"},
            "c: 21 weights and 2000 MACs are not those of r_max=4 equal ranks",
        ),
        ({"eigenvalue.conf": '{"layer": {"c": 0'}, "eigenvalue.conf is not JSON with `layer` and `eigen`"),
        ({"eigenvalue.conf": '{"layer": {"c": 0}}'}, "eigenvalue.conf is not JSON with `layer` and `eigen`"),
        (
            {"eigenvalue.conf": '{"layer": {"a": 1, "b": 2, "c": 3}, "eigen": {"a": [], "b": [], "c": []}}'},
            "must number the layers from 0 on",
        ),
        (
            {"eigenvalue.conf": '{"layer": {"a": 1, "b": 2, "c": 0}, "eigen": {"a": [1], "b": [1], "c": [1]}}'},
            "c has 1 singular values, and r_max=4",
        ),
    ],
)
def test_files_that_contradict_each_other(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        profiles_from_enc(small(tmp_path, **changes))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("has no R_list.txt, eigenvalue.conf; the files of ENC are")):
        profiles_from_enc(small(tmp_path, **{"R_list.txt": None, "eigenvalue.conf": None}))
    assert profiles_from_enc(str(FOLDER)).keys() == vgg16().keys()
