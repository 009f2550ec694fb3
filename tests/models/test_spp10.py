import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.models import spp10
from lowrank_exp.models.spp10 import PyramidPool
from lowrank_exp.network.cost import layer_costs
from support.numpy_layers import max_pool, recorded, relu


def on_meta(**arguments):
    with torch.device("meta"):
        return spp10(**arguments)


def costs(network):
    return layer_costs(network, torch.zeros(1, *network.input_shape, device="meta"))


def test_complexities_are_those_of_the_papers_table():
    found = costs(on_meta())
    convolutions = [cost.macs for name, cost in found.items() if name.startswith("conv")]
    assert [round(macs / 1e6, 1) for macs in convolutions] == [167.7, 752.6, 382.2, 764.4, 764.4, 764.4, 764.4]
    assert sum(convolutions) == 4_360_158_240
    assert [round(100 * macs / sum(convolutions), 1) for macs in convolutions] == [3.8, 17.3, 8.8] + 4 * [17.5]
    assert sum(cost.macs for cost in found.values()) == 4_360_158_240 + 25_600 * 4096 + 4096 * 4096 + 4096 * 1000
    assert sum(cost.weights for cost in found.values()) == 136_976_160
    assert list(found) == [f"conv{i}" for i in range(1, 8)] + ["fc8", "fc9", "fc10"]


@pytest.mark.parametrize(("height", "width"), [(18, 18), (13, 13), (7, 11), (6, 6)])
def test_pyramid_against_its_definition(height, width):
    x_NCHW = np.random.default_rng(0).standard_normal((2, 3, height, width))
    expected = [
        [
            x_NCHW[
                n,
                c,
                math.floor(i * height / cells) : math.ceil((i + 1) * height / cells),
                math.floor(j * width / cells) : math.ceil((j + 1) * width / cells),
            ].max()
            for cells in (6, 3, 2, 1)
            for c in range(3)
            for i in range(cells)
            for j in range(cells)
        ]
        for n in range(2)
    ]
    out = PyramidPool((6, 3, 2, 1))(torch.from_numpy(x_NCHW)).numpy()
    np.testing.assert_array_equal(out, expected)
    assert out.shape == (2, 50 * 3)


@torch.no_grad()
@pytest.mark.parametrize("input_size", [79, 100])
def test_between_the_layers_lies_what_the_paper_has(input_size):
    torch.manual_seed(0)
    network = spp10(width=0.03, input_size=input_size, num_classes=3).double().eval()
    passed, output = recorded(network, torch.randn(2, 3, input_size, input_size, dtype=torch.float64))
    inputs = {name: value[0] for name, value in passed.items()}
    outputs = {name: relu(value[1]) for name, value in passed.items()}
    np.testing.assert_array_equal(inputs["conv2"], max_pool(outputs["conv1"], 3, 3, up=True))
    np.testing.assert_array_equal(inputs["conv3"], max_pool(outputs["conv2"], 2, 2, up=True))
    for i in range(4, 8):
        np.testing.assert_array_equal(inputs[f"conv{i}"], outputs[f"conv{i - 1}"])
    pyramid = PyramidPool((6, 3, 2, 1))(torch.from_numpy(outputs["conv7"])).numpy()
    np.testing.assert_array_equal(inputs["fc8"], pyramid)
    np.testing.assert_array_equal(inputs["fc9"], outputs["fc8"])
    np.testing.assert_array_equal(inputs["fc10"], outputs["fc9"])
    np.testing.assert_array_equal(output, passed["fc10"][1])


@torch.no_grad()
def test_in_training_half_of_the_hidden_units_are_dropped():
    torch.manual_seed(0)
    passed, _ = recorded(spp10(width=0.1, input_size=79).train(), torch.randn(8, 3, 79, 79))
    for name, before in (("fc9", "fc8"), ("fc10", "fc9")):
        active, kept = passed[before][1] > 0, passed[name][0] != 0
        np.testing.assert_array_equal(passed[name][0], np.where(kept, 2 * relu(passed[before][1]), 0))
        assert kept[active].mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(active.sum()))


def test_initialisation():
    torch.manual_seed(0)
    for layer in spp10(width=0.1).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            convolution = isinstance(layer, nn.Conv2d)
            deviation = math.sqrt(2 / (layer.in_channels * layer.kernel_size[0] ** 2)) if convolution else 0.01
            # The standard deviation of n normal values varies by 1 / sqrt(2 n) of itself: five such steps.
            tolerance = 5 / math.sqrt(2 * layer.weight.numel())
            assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=tolerance)
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_the_smallest_input_gives_every_cell_one_pixel():
    assert costs(on_meta(input_size=79))["conv7"].input_shapes == ((1, 512, 6, 6),)
    with pytest.raises(ValueError, match=r"input_size=78, but spp10 needs 79 or more: .* 6 x 6 cells"):
        on_meta(input_size=78)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": -0.5}, r"width=-0\.5, but it must be a number above 0"),
        ({"in_channels": 0}, r"in_channels=0, but it must be a whole number"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**arguments)
