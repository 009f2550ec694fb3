import math

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torch import nn

from lowrank_exp import measure, models
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.models import alexnet, alexnet_torchvision
from lowrank_exp.network.cost import layer_costs
from support.numpy_layers import max_pool, recorded, relu, response_norm


def on_meta(constructor, **arguments):
    with torch.device("meta"):
        return constructor(**arguments)


def costs(network):
    return layer_costs(network, torch.zeros(1, *network.input_shape, device="meta"))


def macs(network):
    return {name: cost.macs for name, cost in costs(network).items()}


def test_costs_are_the_published_ones_of_caffes_network():
    found = costs(on_meta(alexnet))
    convolutions = [cost for name, cost in found.items() if name.startswith("conv")]
    assert [cost.macs for cost in convolutions] == [105_415_200, 223_948_800, 149_520_384, 112_140_288, 74_760_192]
    assert sum(cost.macs for cost in convolutions) == 665_784_864
    assert sum(cost.weights for cost in convolutions) == 2_332_704
    assert sum(cost.macs for cost in found.values()) == 724_406_816
    assert sum(cost.weights for cost in found.values()) == 60_954_656
    assert sum(cost.channels for cost in convolutions) == 1376  # the feature maps that Molchanov et al. count
    assert list(found) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def test_costs_without_groups():
    found = macs(on_meta(alexnet, groups=1))
    convolutions = [round(found[f"conv{i}"] / 1e6, 2) for i in range(1, 6)]
    assert convolutions == [105.42, 447.90, 149.52, 224.28, 149.52]
    assert round(sum(found.values()) / 1e6, 3) == 1135.256


def test_half_the_width_is_a_quarter_of_the_macs_but_at_the_ends():
    whole, half = macs(on_meta(alexnet)), macs(on_meta(alexnet, width=0.5))
    assert {name: whole[name] / half[name] for name in whole} == dict.fromkeys(whole, 4) | {"conv1": 2, "fc8": 2}


def test_a_grey_image_costs_conv1_a_third():
    assert macs(on_meta(alexnet, in_channels=1))["conv1"] == 105_415_200 // 3
    assert macs(on_meta(alexnet_torchvision, in_channels=1))["features.0"] == 70_276_800 // 3


@torch.no_grad()
def test_between_the_layers_lies_what_caffe_has():
    """Responses near 100, where the normalisation's factor is far from 1."""
    torch.manual_seed(0)
    network = alexnet(width=0.05, input_size=99, num_classes=3).double().eval()
    passed, output = recorded(network, 3000 * torch.randn(2, 3, 99, 99, dtype=torch.float64))
    inputs = {name: value[0] for name, value in passed.items()}
    outputs = {name: relu(value[1]) for name, value in passed.items()}
    assert response_norm(outputs["conv1"], k=1, alpha=1e-4 / 5).max() < 0.9 * outputs["conv1"].max()
    for name, before in (("conv2", "conv1"), ("conv3", "conv2")):
        normalised = response_norm(outputs[before], k=1, alpha=1e-4 / 5)
        np.testing.assert_allclose(inputs[name], max_pool(normalised, 3, 2, up=False), rtol=1e-10)
    np.testing.assert_array_equal(inputs["conv4"], outputs["conv3"])
    np.testing.assert_array_equal(inputs["conv5"], outputs["conv4"])
    np.testing.assert_array_equal(inputs["fc6"], max_pool(outputs["conv5"], 3, 2, up=False).reshape(2, -1))
    np.testing.assert_array_equal(inputs["fc7"], outputs["fc6"])
    np.testing.assert_array_equal(inputs["fc8"], outputs["fc7"])
    np.testing.assert_array_equal(output, passed["fc8"][1])


@torch.no_grad()
def test_in_training_half_of_the_hidden_units_are_dropped():
    torch.manual_seed(0)
    network = alexnet(width=0.25, input_size=67)
    passed, _ = recorded(network.train(), torch.randn(4, 3, 67, 67))
    for name, before in (("fc7", "fc6"), ("fc8", "fc7")):
        active = passed[before][1] > 0
        kept = passed[name][0] != 0
        np.testing.assert_array_equal(passed[name][0], np.where(kept, 2 * relu(passed[before][1]), 0))
        assert kept[active].mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(active.sum()))


def test_initialisation_is_caffes():
    torch.manual_seed(0)
    network = alexnet(width=0.25, input_size=67)
    for name, layer in network.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = 0.005 if name in ("fc6", "fc7") else 0.01
            # The standard deviation of n normal values varies by 1 / sqrt(2 n) of itself: five such steps.
            tolerance = 5 / math.sqrt(2 * layer.weight.numel())
            assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=tolerance)
            shift = 0.1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
            assert torch.equal(layer.bias, torch.full_like(layer.bias, shift))


@pytest.mark.parametrize(("constructor", "smallest"), [(alexnet, 67), (alexnet_torchvision, 63)])
def test_the_smallest_input_leaves_one_pixel(constructor, smallest):
    network = on_meta(constructor, input_size=smallest)
    last, channels = {"alexnet": ("conv5", 384), "alexnet_torchvision": ("features.10", 256)}[constructor.__name__]
    assert costs(network)[last].input_shapes == ((1, channels, 3, 3),)  # pooled to one
    with pytest.raises(ValueError, match=rf"input_size={smallest - 1}, but {constructor.__name__} needs {smallest} or"):
        on_meta(constructor, input_size=smallest - 1)


@torch.no_grad()
def test_torchvisions_state_dict_loads_and_gives_its_outputs():
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet().eval()
    ours = on_meta(alexnet_torchvision).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(2, *ours.input_shape)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_costs_are_those_torchvision_states():
    stated = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta
    network = on_meta(alexnet_torchvision)
    found = measure(network, torch.zeros(1, 3, 224, 224, device="meta"), seconds=0)
    assert found.parameters == stated["num_params"]
    assert round(found.macs / 1e9, 3) == stated["_ops"]
    assert (found.macs, found.weights) == (714_188_480, 61_090_496)


def test_the_small_one_of_the_tutorials():
    """conv 3 -> 6 and 6 -> 16 of 5x5, both pooled, then 400 -> 120 -> 84 -> 10."""
    config = yaml.safe_load((CONF / "model" / "alexnet_small.yaml").read_text())
    config["num_classes"] = 10
    constructor = getattr(models, config.pop("_target_").rpartition(".")[2])
    found = macs(on_meta(constructor, **config))
    assert list(found.values()) == [75 * 6 * 28 * 28, 150 * 16 * 10 * 10, 400 * 120, 120 * 84, 84 * 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 0}, r"groups=0, but it must be a whole number, 1 or more"),
        ({"width": 0}, r"width=0, but it must be a number above 0"),
        ({"width": -1.0}, r"width=-1\.0, but"),
        ({"width": "1"}, r"width='1', but"),
        ({"width": True}, r"width=True, but"),
        ({"width": math.inf}, r"width=inf, but"),
        ({"width": math.nan}, r"width=nan, but"),
        ({"num_classes": 0}, r"num_classes=0"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(alexnet, **arguments)
