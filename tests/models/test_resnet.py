import pytest
import torch
import torchvision
from torch import nn

from lowrank_exp import measure
from lowrank_exp.models import resnet
from lowrank_exp.network.cost import layer_costs

IMAGENET = {"stem": "imagenet", "num_classes": 1000, "input_size": 224}


def on_meta(**arguments):
    with torch.device("meta"):
        return resnet(**arguments)


def measured(network):
    return measure(network, torch.zeros(1, *network.input_shape), seconds=0)


def shapes(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def torchvision_with_the_cifar_stem(depth):
    """The usual change of torchvision's network for CIFAR."""
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def lively_(network):
    """Every batch norm with statistics, scales and shifts of its own."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    return network.eval()


@pytest.mark.parametrize("depth", [18, 34, 50, 152])
def test_names_and_shapes_are_those_of_torchvision(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
    ours = on_meta(depth=depth, **IMAGENET)
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict(), strict=True)


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_costs_are_those_that_torchvision_documents(depth):
    documented = torchvision.models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].meta
    ours = measured(on_meta(depth=depth, **IMAGENET))
    assert ours.parameters == documented["num_params"]
    assert ours.macs / 1e9 == pytest.approx(documented["_ops"], abs=0.0005)


def test_outputs_are_those_of_torchvision(tmp_path):
    torch.manual_seed(0)
    theirs = lively_(torchvision.models.get_model("resnet50", num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = resnet(50, "imagenet", num_classes=7, input_size=64, weights=tmp_path / "weights.pth").eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_outputs_with_the_cifar_stem_are_those_of_torchvision_so_changed():
    torch.manual_seed(0)
    theirs = lively_(torchvision_with_the_cifar_stem(18))
    ours = resnet(18).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_same_seed_starts_from_the_numbers_of_torchvision():
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.manual_seed(3)
    ours = resnet(18, "imagenet", input_size=32).state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_resnet18_of_pufferfish():
    """11,173,834 parameters in its code, which has no batch norm after the stem."""
    network = on_meta(depth=18)
    ours = measured(network)
    assert ours.parameters == 11_173_962
    assert ours.parameters - sum(p.numel() for p in network.bn1.parameters()) == 11_173_834


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_macs_with_the_cifar_stem_counted_by_hand(depth, blocks):
    full = 64 * 64 * 9 * 32 * 32  # a 3x3 convolution of any stage: width doubles where the map halves
    half, shortcut = full // 2, full // 18  # the first of a later stage; its 1x1 shortcut from half the width
    by_hand = 3 * 64 * 9 * 32 * 32 + 2 * blocks[0] * full + 512 * 10
    by_hand += sum((2 * n - 1) * full + half + shortcut for n in blocks[1:])
    assert measured(on_meta(depth=depth)).macs == by_hand


def test_costs_in_the_tables():
    costs = {depth: measured(on_meta(depth=depth)) for depth in (18, 34, 50)}
    assert {depth: (cost.macs, cost.weights, cost.parameters) for depth, cost in costs.items()} == {
        18: (555_422_720, 11_164_352, 11_173_962),
        34: (1_159_402_496, 21_265_088, 21_282_122),
        50: (1_297_829_888, 23_467_712, 23_520_842),
    }
    costs = [measured(on_meta(depth=depth, **IMAGENET)) for depth in (18, 50)]
    assert [cost.macs for cost in costs] == [1_814_073_344, 4_089_184_256]
    assert [cost.weights for cost in costs] == [11_678_912, 25_502_912]


def test_width_multiplies_every_channel():
    whole, half = on_meta(depth=18), on_meta(depth=18, width=0.5)
    costs = {True: layer_costs(whole, torch.zeros(1, 3, 32, 32)), False: layer_costs(half, torch.zeros(1, 3, 32, 32))}
    for name, cost in costs[True].items():
        divisor = 2 if name in ("conv1", "fc") else 4  # images and classes stay
        assert costs[False][name].weights * divisor == cost.weights
        assert costs[False][name].macs * divisor == cost.macs


@pytest.mark.parametrize(("stem", "input_size"), [("cifar", 8), ("imagenet", 32)])
def test_smallest_input_has_gradients_everywhere(stem, input_size):
    torch.manual_seed(0)
    network = resnet(50, stem, width=0.125, input_size=input_size, in_channels=1, num_classes=3)
    network(torch.randn(4, *network.input_shape)).square().sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_exported_it_gives_the_same_output():
    torch.manual_seed(0)
    network = lively_(resnet(18, width=0.125, input_size=16))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, r"depth=20, but it must be one of 18, 34, 50, 101, 152; .* model=resnet20"),
        ({"stem": "small"}, r"stem='small', but it must be one of cifar, imagenet"),
        ({"input_size": 7}, r"input_size=7, but resnet with stem=cifar needs 8 or more"),
        ({"stem": "imagenet", "input_size": 31}, r"stem=imagenet needs 32 or more; stem=cifar is for small images"),
        ({"width": 0}, r"width=0, but it must be a number above 0"),
        ({"in_channels": 0}, r"in_channels=0"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(**arguments)
