"""What this package makes of networks leaves as ONNX and gives the same outputs there: every decomposition, every
network, pruned ones."""

import copy
import math
import re

import pytest
import torch
import yaml
from torch import nn

from lowrank_exp import factorize_, models
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.decomposition import refusals
from lowrank_exp.export import export, open_exported
from lowrank_exp.layers import PadShortcut
from lowrank_exp.network.cost import LAYERS as KINDS_OF_LAYERS
from lowrank_exp.pruning import channel_groups, keepable, remove_
from support.cells import cells
from support.layer_cases import KINDS, LAYERS, filled

# Of LAYERS one of every setting; the forms of padding take exporters long.
SETTINGS = (
    *("1x1", "3x3", "stride and padding per axis", "padding same, dilated, reflected", "groups, stride, dilation"),
    *("depthwise", "depthwise with multiplier", "1-D", "3-D", "transposed, groups, dilation", "linear"),
)
FIRST = {kind.name: kind for kind in reversed(KINDS.values())}  # of each the first options


class Beside(nn.Module):
    """Layers that read parts of one row of numbers, each its own shape, and put their outputs into one row."""

    def __init__(self, cases):
        super().__init__()
        self.layers = nn.ModuleList(layer for layer, _ in cases)
        self.shapes = [shape[1:] for _, shape in cases]

    def parts(self, x):
        inputs = [x[:, : math.prod(shape)].unflatten(1, shape) for shape in self.shapes]
        return [layer(part).flatten(1) for layer, part in zip(self.layers, inputs, strict=True)]

    def forward(self, x):
        return torch.cat(self.parts(x), 1)


def outputs(network, x):
    with torch.no_grad():
        return copy.deepcopy(network).eval()(x)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_every_decomposition_of_the_configuration_is_here():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "decomposition").glob("*.yaml")}
    choosing = {name for name, content in files.items() if isinstance(content["conv"], list)}  # among others
    assert FIRST.keys() == files.keys() - choosing
    assert {"alds", "joined"} <= choosing


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIRST.values(), ids=FIRST)
def test_every_decomposition_of_every_kind_of_layer(kind, tmp_path):
    cases = {name: LAYERS[name] for name in SETTINGS if kind.refusal(LAYERS[name][0]) is None}
    network = Beside([(filled(layer, dtype=torch.float32), shape) for layer, shape in cases.values()])
    ladders = {f"layers.{place}": kind.ladder(layer) for place, layer in enumerate(network.layers)}
    ranks = {name: ladder[len(ladder) // 2] for name, ladder in ladders.items()}
    factorize_(network, ranks, kind if kind.name == "linear_svd" else {"conv": kind, "linear": kind})
    x = noise(3, 480)
    assert export(network, tmp_path / "small.onnx", x[:1], images=x).equal_predictions == 1
    wanted = [part.detach() for part in network.eval().parts(x)]
    got = open_exported(tmp_path / "small.onnx")(x).split([part.shape[1] for part in wanted], 1)
    assert len(wanted) >= (1 if kind.name == "linear_svd" else 5)
    for name, a, b in zip(cases, wanted, got, strict=True):
        assert float((a - b).abs().max() / a.abs().max()) < 2e-6, name
        assert float(a.std()) > 0.1, name


TEXT = {"layers": 1, "width": 16, "heads": 2}
VIT = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8}


def clip():
    arguments = {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": TEXT}
    network = models.clip("ViT-B-32", arguments, num_classes=3, input_size=32)
    return network.classes_are_(["cat", "dog", "tree"])


# A network of every constructor of conf/model, thin and shallow; and where a constructor has several forms, each.
ZOO = {
    "alexnet": lambda: models.alexnet(width=0.1, num_classes=7, input_size=67),
    "alexnet_torchvision": lambda: models.alexnet_torchvision(width=0.1, num_classes=7, input_size=63),
    "cifar_resnet": lambda: models.cifar_resnet(8, input_size=8),
    "cifar_resnet, shortcut b": lambda: models.cifar_resnet(8, shortcut="b", input_size=8),
    "cifar_resnet, bottleneck": lambda: models.cifar_resnet(11, block="bottleneck", input_size=8),
    "clip": clip,
    "densenet": lambda: models.densenet(10, 4, bottleneck=True, reduction=0.5, input_size=8),
    "hub": lambda: models.hub(name="squeezenet1_1", num_classes=7, input_size=64),
    "lenet5": lambda: models.lenet5(input_size=16),
    "lenet_300_100": lambda: models.lenet_300_100(input_size=8),
    "resnet": lambda: models.resnet(18, stem="imagenet", width=0.1, num_classes=7, input_size=64),
    "spp10": lambda: models.spp10(width=0.05, num_classes=7, input_size=79),
    "vanilla_cnn": lambda: models.vanilla_cnn(3, filters=8, input_size=8),
    "vgg": lambda: models.vgg(11, width=0.1),
    "vgg, imagenet": lambda: models.vgg(11, head="imagenet", batch_norm=False, width=0.1, num_classes=7),
    "zeiler_fergus": lambda: models.zeiler_fergus(width=0.1, num_classes=7, input_size=84),
}


def lively(network):
    """Weights that keep the scale of their input, biases and batch-norm statistics of their own."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.dim() > 1:
                tensor.data.normal_(0, math.sqrt(2 / tensor[0].numel()), generator=draw)
            elif tensor.is_floating_point():
                low, high = (0.5, 1.5) if key in ("weight", "running_var") else (-0.3, 0.3)
                tensor.data.uniform_(low, high, generator=draw)
    return network


def test_every_constructor_of_the_configuration_is_here():
    files = "".join(path.read_text() for path in (CONF / "model").glob("*.yaml"))
    assert set(re.findall(r"_target_: lowrank_exp\.models\.(\w+)", files)) == {name.partition(",")[0] for name in ZOO}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_network_factorized(name, tmp_path):
    network = lively(ZOO[name]())
    kept = refusals(network)
    layers = {n: l for n, l in network.named_modules() if isinstance(l, KINDS_OF_LAYERS) and n not in kept}
    some = [n for n, layer in layers.items() if getattr(layer, "groups", 1) == 1][1::2]
    factorize_(network, {n: 2 for n in some}, "spatial_svd")
    x = noise(3, *network.input_shape)
    exported = export(network, tmp_path / "small.onnx", x[:1], images=x)
    assert exported.difference < 1e-5
    assert exported.equal_predictions == 1
    assert exported.metadata["edits"] == len(some) > 0
    got, wanted = open_exported(tmp_path / "small.onnx")(x), outputs(network, x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert float((wanted[0] - wanted[1]).norm() / wanted.norm()) > 1e-4


@pytest.mark.slow
@cells("name", ["cifar_resnet", "vgg"])
def test_pruned_networks(name, tmp_path):
    """A third of all channels removed, through shortcuts that pad; then one layer decomposed."""
    network = lively(ZOO[name]()).eval()
    x = noise(3, *network.input_shape)
    before = sum(parameter.numel() for parameter in network.parameters())
    groups = channel_groups(network, x)
    remove_(network, {group: keepable(group, range(0, group.channels, 3)) for group in groups})
    if name == "cifar_resnet":
        assert any(isinstance(module, PadShortcut) and module.front != 8 for module in network.modules())
    first = next(n for n, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    factorize_(network, {first: 2}, "channel_svd")
    assert sum(parameter.numel() for parameter in network.parameters()) < 0.7 * before
    exported = export(network, tmp_path / "small.onnx", x[:1], images=x)
    wanted, got = outputs(network, x), open_exported(tmp_path / "small.onnx")(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert exported.difference < 1e-5
    assert float((wanted[0] - wanted[1]).norm() / wanted.norm()) > 1e-4
