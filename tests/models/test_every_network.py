"""Every file of conf/model, as a job builds it: what it costs, and that decomposition at full rank changes nothing."""

import copy
import functools
import re
from collections.abc import Callable
from math import sqrt

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lowrank_exp import factorize_, measure
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.decomposition import (
    ChannelSVD,
    Decompositions,
    GroupedChannelSVD,
    SpatialSVD,
    TensorTrain,
    Tucker2,
    refusals,
)
from lowrank_exp.network.cost import layer_costs

ELSEWHERE = {"clip"}  # an image encoder with a test of its own
NETWORKS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - ELSEWHERE)
SLOW = {"resnet110", "densenet100"}
THOUSAND = {"spp10"}
# Thin, and the smallest images at which every entry of every kernel meets a pixel; by constructor.
THIN = {
    "alexnet": {"width": 0.1, "input_size": 67},
    "alexnet_torchvision": {"width": 0.1, "input_size": 63},
    "cifar_resnet": {"input_size": 8},
    "densenet": {"growth": 4, "input_size": 16},
    "hub": {"name": "shufflenet_v2_x0_5", "input_size": 64},  # depthwise convolutions, channels split and shuffled
    "lenet5": {"input_size": 16},
    "lenet_300_100": {"input_size": 8},
    "resnet cifar": {"width": 0.1, "input_size": 16},
    "resnet imagenet": {"width": 0.1, "input_size": 64},
    "spp10": {"width": 0.05, "input_size": 79},
    "vanilla_cnn": {"filters": 8, "input_size": 4},
    "vgg": {"width": 0.1, "input_size": 32},
    "zeiler_fergus": {"width": 0.1, "input_size": 84},
}
KINDS = {
    "channel_svd": ChannelSVD(),
    "channel_svd, pointwise first": ChannelSVD(order="pointwise_first"),
    "spatial_svd": SpatialSVD(),
    "spatial_svd, horizontal first": SpatialSVD(order="horizontal_first"),
    "grouped_channel_svd": GroupedChannelSVD(groups=2),
    "tucker2": Tucker2(),
    "tensor_train": TensorTrain(),
}
# MACs of convolutions; MACs of all layers; parameters but those of the linear layers. None: no figure was published.
PUBLISHED = {
    "alexnet": (665_784_864, 724_406_816, None),
    "vgg16": (313_196_544, 313_201_664, None),
    "vgg16 head=cifar512": (313_196_544, 313_463_808, None),
    "vgg16_imagenet": (15_346_630_656, 15_470_264_320, None),
    "spp10": (4_360_158_240, None, None),
    "resnet20": (40_550_400, 40_551_040, 269_072),
    "resnet20 shortcut=b": (40_812_544, None, None),
    "resnet32": (68_861_952, 68_862_592, 463_504),
    "resnet56": (125_485_056, 125_485_696, 852_368),
    "resnet110": (252_887_040, 252_887_680, 1_727_312),
    "vanilla3": (None, None, 19_584),
    "vanilla8": (None, None, 66_144),
    "vanilla13": (None, None, 112_704),
    "vanilla18": (None, None, 159_264),
}


@functools.cache
def configured(file: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"model={file}"]).model


def built(file: str, device: str = "cpu", **arguments) -> nn.Module:
    """The network that a job gets from `model=file`, with other arguments and ten classes."""
    with torch.device(device):
        return instantiate(configured(file), **({"num_classes": 10} | arguments))


def thin(file: str) -> nn.Module:
    """`model=file` made small; as it is where its constructor is not known here."""
    config = configured(file)
    constructor = config._target_.rpartition(".")[2]
    return built(file, **THIN.get(f"{constructor} {config.stem}" if constructor == "resnet" else constructor, {}))


def costs(network: nn.Module) -> tuple[int, int]:
    """MACs of all layers, and of the convolutions."""
    x = torch.zeros(1, *network.input_shape, device="meta")
    found = layer_costs(network, x)
    in_convolutions = sum(cost.macs for n, cost in found.items() if isinstance(network.get_submodule(n), nn.Conv2d))
    return measure(network, x, seconds=0).macs, in_convolutions


def beside_linear_layers(network: nn.Module) -> int:
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return sum(p.numel() for p in network.parameters()) - sum(p.numel() for layer in linear for p in layer.parameters())


def lively_(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """With weights that keep the scale of their input, biases and batch-norm statistics of their own."""
    draw = torch.Generator().manual_seed(0)
    network.to(dtype).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, sqrt(2 / module.weight[0].numel()), generator=draw)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=draw)
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
        if getattr(module, "bias", None) is not None:
            module.bias.data.normal_(0, 0.1, generator=draw)
    return network


def images(network: nn.Module, count: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, *network.input_shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def unused_entries(network: nn.Module, x: torch.Tensor) -> list[str]:
    """Layers with a kernel entry (over all channels), an input feature or a bias that the output does not depend on."""
    network(x).square().sum().backward()
    silent = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            used = layer.weight.grad.abs().sum((0, 1)) > 0
        elif isinstance(layer, nn.Linear):
            used = layer.weight.grad.abs().sum() > 0
        else:
            continue
        if not used.all() or (layer.bias is not None and not layer.bias.grad.any()):
            silent.append(name)
    network.zero_grad()
    return silent


@pytest.mark.parametrize("case", [*NETWORKS, *(case for case in PUBLISHED if " " in case)])
def test_costs_are_those_published_and_those_that_the_file_states(case):
    """A file states, in its head: MACs, those of convolutions, parameters with and without linear layers."""
    file, *changed = case.split()
    head = " ".join(re.findall(r"^# (.*)$", (CONF / "model" / f"{file}.yaml").read_text(), flags=re.M))
    classes = re.search(r"(\d+) classes", head)
    classes = int(classes[1]) if classes else 1000 if case in THOUSAND else 10
    arguments = dict(change.split("=") for change in changed)
    network = built(file, "meta", num_classes=classes, **arguments)
    macs, in_convolutions = costs(network)
    own = (in_convolutions, macs, beside_linear_layers(network))
    published = PUBLISHED.get(case, (None, None, None))
    assert tuple(None if figure is None else own for own, figure in zip(own, published, strict=True)) == published
    actual = {
        "MACs": macs,
        "convolution MACs": in_convolutions,
        "in convolutions": in_convolutions,
        "parameters": sum(p.numel() for p in network.parameters()),
        "parameters (no linear layer)": beside_linear_layers(network),
        "parameters without the linear layer": beside_linear_layers(network),
    }
    kinds = "|".join(re.escape(kind) for kind in sorted(actual, key=len, reverse=True))
    stated = [(kind, int(number.replace(",", ""))) for number, kind in re.findall(rf"(\d[\d,]+) ({kinds})", head)]
    if not changed:
        assert stated == [(kind, actual[kind]) for kind, _ in stated]
        assert len(stated) >= (0 if file == "hub" else 2)


def test_shortcut_b_has_two_convolutions_more():
    counts = []
    for shortcut in "ab":
        network = built("resnet20", "meta", shortcut=shortcut)
        counts.append(sum(isinstance(layer, nn.Conv2d) for layer in network.modules()))
    assert counts == [19, 21]


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.slow) if file in SLOW else file for file in NETWORKS]
)
def test_full_rank_keeps_the_output(file):
    """Every convolution and linear layer is factorized, but those with a reason."""
    network = lively_(thin(file))
    x = images(network)
    assert unused_entries(network, images(network, 8)) == []
    with torch.no_grad():
        wanted = network(x)
    assert wanted.shape == (2, 10)
    assert float((wanted[0] - wanted[1]).norm() / wanted.norm()) > 1e-3
    layers = {n: layer for n, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    odd = {n for n, layer in layers.items() if isinstance(layer, nn.Conv2d) and layer.in_channels // layer.groups % 2}
    assert refusals(network) == {}
    for kind, decomposition in KINDS.items():
        chosen = Decompositions.of(decomposition).by_layer(layers)
        reasons = {n: chosen[n].refusal(layer) for n, layer in layers.items() if chosen[n].refusal(layer)}
        assert set(reasons) == (odd if kind == "grouped_channel_svd" else set()), (kind, reasons)
        ranks = {n: chosen[n].full_rank(layer) for n, layer in layers.items() if n not in reasons}
        small = factorize_(copy.deepcopy(network), ranks, decomposition)
        assert {n for n in layers if isinstance(small.get_submodule(n), nn.Sequential)} == set(ranks)
        with torch.no_grad():
            error = float((small(x) - wanted).norm() / wanted.norm())
        assert error < 1e-8, (kind, error)


def published_vgg(depth: int, batch_norm: bool) -> nn.Module:
    """torchvision's VGG for ImageNet with an eighth of its channels."""
    letter = {11: "A", 13: "B", 16: "D", 19: "E"}[depth]
    features = make_layers([c if c == "M" else c // 8 for c in cfgs[letter]], batch_norm)
    with torch.device("meta"):
        theirs = torchvision.models.VGG(features, init_weights=False)
    for i, (inputs, outputs) in {0: (64 * 7 * 7, 512), 3: (512, 512), 6: (512, 10)}.items():
        theirs.classifier[i] = nn.Linear(inputs, outputs)
    return theirs


PUBLIC: dict[str, tuple[str, dict, Callable[[], nn.Module]]] = {
    "resnet18": ("resnet18_imagenet", {}, lambda: torchvision.models.resnet18(num_classes=10)),
    "resnet34": ("resnet18_imagenet", {"depth": 34}, lambda: torchvision.models.resnet34(num_classes=10)),
} | {
    f"vgg{depth}{'_bn' if batch_norm else ''}": (
        "vgg16_imagenet",
        {"depth": depth, "batch_norm": batch_norm, "width": 0.125},
        functools.partial(published_vgg, depth, batch_norm),
    )
    for depth in (11, 13, 16, 19)
    for batch_norm in (True, False)
}


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLIC)
def test_state_dicts_of_torchvision_give_its_outputs(name):
    """Those of alexnet and resnet50 are loaded in their own tests."""
    file, arguments, published = PUBLIC[name]
    theirs = lively_(published(), torch.float32)
    ours = built(file, "meta", input_size=64, **arguments).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = images(ours, dtype=torch.float32)
    wanted = theirs(x)
    assert float((wanted[0] - wanted[1]).norm() / wanted.norm()) > 1e-3
    torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5)
