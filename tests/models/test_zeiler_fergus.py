import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.models import zeiler_fergus
from lowrank_exp.network.cost import layer_costs
from support.numpy_layers import max_pool, recorded, relu, response_norm


def on_meta(**arguments):
    with torch.device("meta"):
        return zeiler_fergus(**arguments)


def costs(network):
    return layer_costs(network, torch.zeros(1, *network.input_shape, device="meta"))


def test_costs_are_x_y_c_f_on_the_maps():
    """Denton et al. count X Y C F N M / stride^2: kernel X x Y, C to F channels, here with the map behind the layer."""
    found = costs(on_meta())
    expected = {
        "conv1": 7 * 7 * 3 * 96 * 109**2,
        "conv2": 5 * 5 * 96 * 256 * 50**2,
        "conv3": 3 * 3 * 256 * 512 * 25**2,
        "conv4": 3 * 3 * 512 * 1024 * 12**2,
        "conv5": 3 * 3 * 1024 * 512 * 12**2,
        "fc6": 512 * 6 * 6 * 4096,
        "fc7": 4096 * 4096,
        "fc8": 4096 * 1000,
    }
    assert {name: cost.macs for name, cost in found.items()} == expected
    assert sum(expected.values()) == 3_896_269_856
    assert sum(cost.weights for cost in found.values()) == 107_616_032
    assert list(found) == list(expected)


@torch.no_grad()
@pytest.mark.parametrize("input_size", [53, 84])
def test_between_the_layers_lies_what_the_code_of_denton_has(input_size):
    torch.manual_seed(0)
    network = zeiler_fergus(width=0.06, input_size=input_size, num_classes=3).double().eval()
    passed, output = recorded(network, 1000 * torch.randn(2, 3, input_size, input_size, dtype=torch.float64))
    inputs = {name: value[0] for name, value in passed.items()}
    outputs = {name: relu(value[1]) for name, value in passed.items()}
    pooled = max_pool(outputs["conv1"], 3, 2, up=True)
    assert response_norm(pooled, k=2, alpha=2e-4).max() < 0.9 * pooled.max() / 2**0.75
    for name, before in (("conv2", "conv1"), ("conv3", "conv2")):
        expected = response_norm(max_pool(outputs[before], 3, 2, up=True), k=2, alpha=2e-4)
        np.testing.assert_allclose(inputs[name], expected, rtol=1e-10)
    np.testing.assert_array_equal(inputs["conv4"], max_pool(outputs["conv3"], 3, 2, up=True))
    np.testing.assert_array_equal(inputs["conv5"], outputs["conv4"])
    np.testing.assert_array_equal(inputs["fc6"], max_pool(outputs["conv5"], 3, 2, up=True).reshape(2, -1))
    np.testing.assert_array_equal(inputs["fc7"], outputs["fc6"])
    np.testing.assert_array_equal(inputs["fc8"], outputs["fc7"])
    np.testing.assert_array_equal(output, passed["fc8"][1])


@torch.no_grad()
def test_in_training_half_of_the_hidden_units_are_dropped():
    torch.manual_seed(0)
    passed, _ = recorded(zeiler_fergus(width=0.2, input_size=53).train(), torch.randn(8, 3, 53, 53))
    for name, before in (("fc7", "fc6"), ("fc8", "fc7")):
        active, kept = passed[before][1] > 0, passed[name][0] != 0
        np.testing.assert_array_equal(passed[name][0], np.where(kept, 2 * relu(passed[before][1]), 0))
        assert kept[active].mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(active.sum()))


def test_initialisation():
    torch.manual_seed(0)
    for layer in zeiler_fergus(width=0.1).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # The standard deviation of n normal values varies by 1 / sqrt(2 n) of itself: five such steps.
            tolerance = 5 / math.sqrt(2 * layer.weight.numel())
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=tolerance)
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_the_smallest_input_leaves_one_pixel():
    assert costs(on_meta(input_size=53))["fc6"].input_shapes == ((1, 512),)
    with pytest.raises(ValueError, match=r"input_size=52, but zeiler_fergus needs 53 or more for its four poolings"):
        on_meta(input_size=52)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": None}, r"width=None, but it must be a number above 0"),
        ({"num_classes": 0}, r"num_classes=0, but it must be a whole number"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**arguments)
