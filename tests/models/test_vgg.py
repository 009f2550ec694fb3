import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lowrank_exp import measure
from lowrank_exp.models import vgg
from lowrank_exp.network.cost import layer_costs
from support.numpy_layers import recorded, relu

LETTERS = {11: "A", 13: "B", 16: "D", 19: "E"}  # of the configurations


def on_meta(**arguments):
    with torch.device("meta"):
        return vgg(**arguments)


def costs(network):
    return layer_costs(network, torch.zeros(1, *network.input_shape, device="meta"))


def convolution_macs(network):
    return sum(cost.macs for name, cost in costs(network).items() if name.startswith("features"))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_published_costs_on_cifar(batch_norm):
    network = on_meta(batch_norm=batch_norm)
    assert convolution_macs(network) == 313_196_544
    assert sum(cost.macs for cost in costs(network).values()) == 313_201_664
    with_hidden = costs(on_meta(batch_norm=batch_norm, head="cifar512"))
    assert sum(cost.macs for cost in with_hidden.values()) == 313_463_808


def test_without_biases_of_convolutions():
    with_bias, without = on_meta(), on_meta(bias=False)
    assert {name for name, _ in with_bias.named_parameters()} - {name for name, _ in without.named_parameters()} == {
        f"features.{n}.bias" for n, layer in enumerate(with_bias.features) if isinstance(layer, nn.Conv2d)
    }


def test_published_costs_on_imagenet():
    network = on_meta(batch_norm=False, head="imagenet", num_classes=1000, input_size=224)
    found = costs(network)
    assert convolution_macs(network) == 15_346_630_656
    assert sum(cost.macs for cost in found.values()) == 15_470_264_320
    # The feature maps that Molchanov et al. prune.
    assert sum(cost.channels for name, cost in found.items() if name.startswith("features")) == 4224


@pytest.mark.parametrize(
    ("depth", "macs", "parameters"),
    [
        (11, 152_764_416, 9_231_114),
        (13, 228_261_888, 9_416_010),
        (16, 313_196_544, 14_728_266),
        (19, 398_131_200, 20_040_522),
    ],
)
def test_costs_by_depth(depth, macs, parameters):
    """By hand: stage s has 9 C_in C_out weights a convolution on maps of 32 / 2^s; a batch norm has two a channel."""
    by_hand, count, inputs = 0, 0, 3
    side = 32
    for channels in cfgs[LETTERS[depth]]:
        if channels == "M":
            side //= 2
            continue
        by_hand += 9 * inputs * channels * side * side
        count += 9 * inputs * channels + 3 * channels
        inputs = channels
    network = on_meta(depth=depth)
    assert convolution_macs(network) == by_hand == macs
    found = measure(network, torch.zeros(1, 3, 32, 32, device="meta"), seconds=0)
    assert found.parameters == count + 512 * 10 + 10 == parameters
    assert len(costs(network)) == depth - 2  # one linear layer instead of three
    assert convolution_macs(on_meta(depth=depth, input_size=224)) == 49 * macs


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_names_shapes_and_costs_are_torchvisions(depth, batch_norm):
    name = f"vgg{depth}{'_bn' if batch_norm else ''}"
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    ours = on_meta(depth=depth, batch_norm=batch_norm, head="imagenet", num_classes=1000, input_size=224)
    assert [(n, v.shape) for n, v in ours.state_dict().items()] == [
        (n, v.shape) for n, v in theirs.state_dict().items()
    ]
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    stated = torchvision.models.get_model_weights(name).DEFAULT.meta
    found = measure(ours, torch.zeros(1, 3, 224, 224, device="meta"), seconds=0)
    assert found.parameters == stated["num_params"]
    assert round(found.macs / 1e9, 3) == pytest.approx(stated["_ops"], abs=0.0011)


@torch.no_grad()
def test_torchvisions_state_dict_gives_its_outputs():
    """VGG-11 with batch norm and an eighth of its width, at 96 pixels: a map of 3 x 3, which both average to 7 x 7."""
    torch.manual_seed(0)
    features = make_layers([c if c == "M" else c // 8 for c in cfgs["A"]], batch_norm=True)
    with torch.device("meta"):
        theirs = torchvision.models.VGG(features, init_weights=False)
    for i, (inputs, outputs) in {0: (64 * 7 * 7, 512), 3: (512, 512), 6: (512, 5)}.items():
        theirs.classifier[i] = nn.Linear(inputs, outputs)
    theirs.eval()
    for norm in (layer for layer in theirs.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    ours = vgg(11, head="imagenet", width=0.125, num_classes=5, input_size=96).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("head", "units"), [("cifar", [4]), ("cifar512", [128, 4]), ("cifar512x2", [128, 128, 4])])
def test_the_heads_for_cifar_read_the_mean_of_the_map(head, units):
    torch.manual_seed(0)
    network = vgg(11, head=head, width=0.25, input_size=64, num_classes=4).double().eval()
    features = make_layers([c if c == "M" else c // 4 for c in cfgs["A"]], batch_norm=True).double().eval()
    features.load_state_dict(network.features.state_dict())
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    mean = features(x).numpy().mean(axis=(2, 3))
    layers = [layer for layer in network.classifier.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == units
    for layer in layers[:-1]:
        mean = relu(mean @ layer.weight.numpy().T + layer.bias.numpy())
    expected = mean @ layers[-1].weight.numpy().T + layers[-1].bias.numpy()
    np.testing.assert_allclose(network(x).numpy(), expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("head", "pairs"), [("cifar512", [(0, 3)]), ("imagenet", [(0, 3), (3, 6)])])
def test_in_training_half_of_the_hidden_units_are_dropped(head, pairs):
    torch.manual_seed(0)
    network = vgg(11, head=head, width=0.25, num_classes=4).train()
    passed, _ = recorded(network, torch.randn(8, 3, 32, 32))
    for before, after in pairs:
        hidden, read = passed[f"classifier.{before}"][1], passed[f"classifier.{after}"][0]
        np.testing.assert_array_equal(read, np.where(read != 0, 2 * relu(hidden), 0))
        active = hidden > 0
        assert (read != 0)[active].mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(active.sum()))


def test_initialisation_is_torchvisions():
    torch.manual_seed(0)
    network = vgg(11, width=0.5, head="cifar512")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            convolution = isinstance(layer, nn.Conv2d)
            deviation = math.sqrt(2 / (9 * layer.out_channels)) if convolution else 0.01
            # The standard deviation of n normal values varies by 1 / sqrt(2 n) of itself: five such steps.
            tolerance = 5 / math.sqrt(2 * layer.weight.numel())
            assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=tolerance)
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = vgg(11, width=0.25)
    network(torch.randn(8, 3, 32, 32)).square().sum().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 12}, r"depth=12, but a VGG has one of 11, 13, 16, 19 layers"),
        ({"depth": 16.0}, r"depth=16\.0, but it must be a whole number"),
        ({"head": "none"}, r"head='none', but it must be one of cifar, cifar512, cifar512x2, imagenet"),
        ({"width": 0.0}, r"width=0\.0, but it must be a number above 0"),
        ({"input_size": 31}, r"input_size=31, but vgg needs 32 or more: five poolings halve it"),
        ({"in_channels": 0}, r"in_channels=0"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**arguments)
