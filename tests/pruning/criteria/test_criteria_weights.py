import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.pruning.criteria import (
    L1,
    L2,
    BNScale,
    GeometricMedian,
    Orthogonality,
    Random,
    WeightedSum,
    filter_scores,
    overlap,
)
from support.cells import cells

FILTERS = [[3.0, 0.0, 4.0, 0.0], [0.0, -2.0, 0.0, 0.0], [3.0, 1.0, 4.0, 0.0]]


def layer_of(rows, bias=True):
    """A convolution of 2 x 2 kernels of one channel, whose filters are these rows."""
    layer = nn.Conv2d(1, len(rows), 2, bias=bias)
    layer.weight.data = torch.tensor(rows).view(len(rows), 1, 2, 2)
    return layer


def scores_of(layer, criterion):
    return filter_scores(nn.Sequential(layer), ["0"], criterion)["0"]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (L1(), [7.0, 2.0, 8.0]),
        (L2(), [5.0, 2.0, math.sqrt(26)]),
        (L2(form="mean_square"), [25 / 4, 1.0, 26 / 4]),
        # distances: |w0 - w1| = sqrt(29), |w0 - w2| = 1, |w1 - w2| = sqrt(9 + 9 + 16)
        (GeometricMedian(), [math.sqrt(29) + 1, math.sqrt(29) + math.sqrt(34), 1 + math.sqrt(34)]),
        # cosines: 0, 25 / (5 sqrt(26)), -1 / sqrt(26); three filters
        (Orthogonality(), [-5 / math.sqrt(26) / 3, -1 / math.sqrt(26) / 3, -6 / math.sqrt(26) / 3]),
        (Orthogonality(0.5), [-10 / math.sqrt(26) / 3, -2 / math.sqrt(26) / 3, -12 / math.sqrt(26) / 3]),
    ],
)
def test_three_filters_by_hand(criterion, expected):
    got = scores_of(layer_of(FILTERS), criterion)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("criterion", [L1(), L2(), GeometricMedian(), Orthogonality(0.5)])
def test_linear_and_transposed_layers_have_the_same_filters(criterion):
    linear, transposed = nn.Linear(4, 3), nn.ConvTranspose2d(1, 3, 2)
    linear.weight.data = torch.tensor(FILTERS)
    transposed.weight.data = torch.tensor(FILTERS).view(1, 3, 2, 2)
    expected = scores_of(layer_of(FILTERS), criterion)
    torch.testing.assert_close(scores_of(linear, criterion), expected)
    torch.testing.assert_close(scores_of(transposed, criterion), expected)


def test_orthonormal_filters_do_not_overlap_and_equal_ones_do_wholly():
    orthonormal = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0))).Q
    layer = nn.Conv2d(1, 6, 3)
    layer.weight.data = orthonormal[:6].reshape(6, 1, 3, 3)
    assert overlap(layer).abs().max() < 1e-6
    equal = layer_of([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], [-1.0, -2.0, -3.0, -4.0]])
    torch.testing.assert_close(overlap(equal), torch.full((3,), 2 / 3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_filter_of_zeros_overlaps_with_none():
    got = overlap(layer_of([[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([0.0, 1 / 3, 1 / 3], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(300, 40, 3), (130, 7, 1), (5, 2, 3)])
def test_overlap_and_distances_of_many_filters_by_numpy(shape):
    O, I, K = shape
    layer = nn.Conv2d(I, O, K)
    W = layer.weight.detach().double().numpy().reshape(O, -1)
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    P = np.abs(unit @ unit.T - np.eye(O))
    np.testing.assert_allclose(overlap(layer).numpy(), P.sum(axis=1) / O, atol=1e-5)
    distances = np.linalg.norm(W[:, None] - W[None], axis=2).sum(axis=1)
    np.testing.assert_allclose(scores_of(layer, GeometricMedian()).numpy(), distances, rtol=1e-7)


def test_distances_of_filters_that_are_almost_alike():
    W = torch.ones(4, 6, dtype=torch.float64) * 1000
    W[1, 0] += 1e-3
    layer = nn.Linear(6, 4).double()
    layer.weight.data = W
    got = scores_of(layer, GeometricMedian())
    torch.testing.assert_close(got, torch.tensor([1e-3, 3e-3, 1e-3, 1e-3], dtype=torch.float64), rtol=1e-6, atol=0)


def test_filters_of_different_groups_see_different_channels():
    grouped, whole = nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 6, 3)
    whole.weight.data.zero_()
    for f in range(6):
        g = f // 3
        whole.weight.data[f, 2 * g : 2 * g + 2] = grouped.weight.data[f]
    for criterion in (L1(), L2(), GeometricMedian(), Orthogonality()):
        torch.testing.assert_close(scores_of(grouped, criterion), scores_of(whole, criterion), atol=1e-6, rtol=1e-6)


def test_scale_of_the_batch_norm_behind():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    )
    network[1].weight.data = torch.tensor([0.5, -2.0, 1.0])
    network[4].weight.data = torch.tensor([-3.0, 0.25])
    batches = [(torch.randn(2, 1, 4, 4), torch.zeros(2))]
    got = filter_scores(network.train(), ["3", "0"], BNScale(), batches)
    assert list(got) == ["3", "0"]
    assert got["0"].tolist() == [0.5, 2.0, 1.0]
    assert got["3"].tolist() == [3.0, 0.25]
    assert network.training
    assert network[1].num_batches_tracked == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_layers_without_a_scale_behind_them_are_refused():
    batches = [(torch.randn(2, 1, 4, 4), torch.zeros(2))]
    behind_relu = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="0 has no batch norm behind it"):
        filter_scores(behind_relu, ["0"], BNScale(), batches)
    with pytest.raises(ValueError, match="0 has a batch norm without a scale"):
        filter_scores(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=False)), ["0"], BNScale(), batches)
    with pytest.raises(ValueError, match="BNScale looks at images"):
        filter_scores(behind_relu, ["0"], BNScale())


def test_random_scores_depend_on_seed_and_layer_alone():
    network = nn.Sequential(nn.Conv2d(1, 40, 1), nn.Conv2d(40, 40, 1))
    state = torch.get_rng_state()
    both, alone = filter_scores(network, ["0", "1"], Random(3)), filter_scores(network, ["1"], Random(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(both["1"], alone["1"])
    other = filter_scores(network, ["0"], Random(4))["0"]
    for s_O in (*both.values(), other):
        assert 0 <= s_O.min() < 0.25
        assert 0.75 < s_O.max() < 1
        assert len(s_O.unique()) == 40
    assert not torch.equal(both["0"], both["1"])
    assert not torch.equal(both["0"], other)


def test_a_weighted_sum_of_criteria():
    mixed = WeightedSum({"a": L1(), "b": L2()}, {"a": 1.0, "b": -0.5})
    L1_O, L2_O = torch.tensor([7.0, 2.0, 8.0]).double(), torch.tensor([5.0, 2.0, math.sqrt(26)]).double()
    expected = L1_O / math.sqrt(117) - 0.5 * L2_O / math.sqrt(55)
    torch.testing.assert_close(scores_of(layer_of(FILTERS), mixed), expected)
    plain = WeightedSum({"a": L1(), "b": L2()}, {"a": 1.0, "b": -0.5}, form="none")
    torch.testing.assert_close(scores_of(layer_of(FILTERS), plain), L1_O - 0.5 * L2_O)


@cells(
    ("make", "told"),
    [
        (lambda: L2(form="l3"), "form='l3' is not known: norm or mean_square"),
        (lambda: Orthogonality(-1.0), "is not a number of 0 or more"),
        (lambda: Random(-1), "is not an integer of 0 or more"),
        (lambda: WeightedSum({"a": L1()}, {"b": 1.0}), "one weight for each criterion"),
        (lambda: WeightedSum({"a": L1()}, {"a": 1.0}, form="l7"), "form='l7' is not known"),
        (lambda: WeightedSum({"a": WeightedSum({"b": L1()}, {"b": 1})}, {"a": 1.0}), "not a single criterion"),
        (lambda: filter_scores(nn.Sequential(nn.ReLU()), ["0"], L1()), "'0' is a ReLU: only filters"),
        (lambda: filter_scores(nn.Sequential(nn.ReLU()), ["conv"], L1()), "'conv' does not exist"),
        (lambda: scores_of(layer_of([[math.nan] * 4]), L1()), "scores that are not finite"),
    ],
)
def test_mistakes_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()
