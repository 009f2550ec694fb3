"""DenseNet for CIFAR (Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, CVPR 2017).

L layers, growth rate k, compression theta. Parameter names follow torchvision.models.densenet.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from lowrank_exp.checks import boolean, fraction
from lowrank_exp.models.constructor import check_whole, network

BLOCKS = 3
PLAIN_STEM = 16  # channels of the first convolution; DenseNet-BC has 2k
BOTTLENECK = 4  # a bottleneck has 4k channels
SMALLEST_INPUT = 4  # two transitions halve the map


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 3x3 convolution to k maps, which are added behind the input's maps."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(relu(self.norm1(x)))], dim=1)


class BottleneckLayer(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to 4k maps, and on those a `DenseLayer`'s steps."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(relu(self.norm1(x)))
        return torch.cat([x, self.conv2(relu(self.norm2(out)))], dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 convolution, mean over 2x2 pixels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(relu(self.norm(x))))


class DenseNet(nn.Module):
    """conv0 - dense block - transition - dense block - transition - dense block - norm5; build it by `densenet`."""

    def __init__(
        self, layers: int, growth: int, bottleneck: bool, reduction: float, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        layer = BottleneckLayer if bottleneck else DenseLayer
        channels = 2 * growth if bottleneck and reduction < 1 else PLAIN_STEM
        features: OrderedDict[str, nn.Module] = OrderedDict()
        features["conv0"] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        for block in range(1, BLOCKS + 1):
            features[f"denseblock{block}"] = nn.Sequential(
                OrderedDict((f"denselayer{i + 1}", layer(channels + i * growth, growth)) for i in range(layers))
            )
            channels += layers * growth
            if block < BLOCKS:
                remaining = compress(channels, reduction)
                features[f"transition{block}"] = Transition(channels, remaining)
                channels = remaining
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(relu(self.features(x)).mean(dim=(2, 3)))


@network
def densenet(
    depth: int = 40,
    growth: int = 12,
    bottleneck: bool = False,
    reduction: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    weights: str | None = None,
) -> DenseNet:
    """DenseNet for CIFAR: three dense blocks of n layers, each of which adds `growth` maps to all before it.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). n is (depth - 4) / 3, with
    bottlenecks (depth - 4) / 6. At 3 x 32 x 32 and 10 classes:

    | depth | growth | bottleneck | reduction | name           | MACs          | weights   | parameters |
    |-------|--------|------------|-----------|----------------|---------------|-----------|------------|
    | 40    | 12     | no         | 1.0       | DenseNet       | 264,812,928   | 1,001,616 | 1,019,722  |
    | 100   | 12     | no         | 1.0       | DenseNet       | 1,769,516,448 | 6,862,416 | 6,979,642  |
    | 100   | 12     | yes        | 0.5       | DenseNet-BC    | 287,929,692   | 745,164   | 769,162    |

    Convolutions start from He's normal distribution (fan in), batch norms from scale 1 and shift 0, the linear layer
    from PyTorch's default weight and bias 0.

    Args:
        depth: L, layers along the longest path: 3n + 4, with bottlenecks 6n + 4.
        growth: k, the maps that every layer adds.
        bottleneck: a 1x1 convolution to 4k maps before every 3x3 convolution ("B").
        reduction: theta, the fraction of the maps that a transition keeps, rounded down; less than 1 is the paper's
            "C".
        num_classes: outputs of the linear layer.
        in_channels: 3 for colour images.
        input_size: side of the square image in pixels, 4 or more; decides no weight's shape.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, if no n gives the depth, or if `weights` does not fit.

    Differs from the paper:
        1. The first convolution has 2k channels with bottlenecks and a reduction below 1 (DenseNet-BC), else 16. The
           paper names these two cases; what it has with only one of B and C it leaves open.
        2. No dropout, which the paper uses where it does not augment the data.
        3. RePr (Prakash et al., CVPR 2019) prints 1016 and 6968 thousand parameters for depths 40 and 100; without
           the linear layer there are 1,015,232 and 6,967,952 here. Its DenseNet of 5 layers has no depth 3n + 4.

    >>> densenet(depth=22).features.denseblock3.denselayer6.conv1
    Conv2d(220, 12, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    check_whole("growth", growth)
    boolean("bottleneck", bottleneck, f"bottleneck={bottleneck!r}, but it must be true or false")
    wrong = f"reduction={reduction!r}, but it must be above 0 and at most 1; 1 keeps all maps"
    fraction("reduction", reduction, wrong)
    if input_size < SMALLEST_INPUT:
        raise ValueError(f"input_size={input_size}, but densenet needs {SMALLEST_INPUT} or more")
    module = DenseNet(layers_per_block(depth, bottleneck), growth, bottleneck, reduction, num_classes, in_channels)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(module.classifier.bias)
    return module


def layers_per_block(depth: int, bottleneck: bool) -> int:
    """Layers in each of the three dense blocks: n of depth = 3n + 4, or 6n + 4 with bottlenecks.

    Raises:
        ValueError: if the depth is not of that form.

    >>> layers_per_block(40, bottleneck=False), layers_per_block(100, bottleneck=True)
    (12, 16)
    """
    step = 2 * BLOCKS if bottleneck else BLOCKS
    check_whole("depth", depth, at_least=step + 4)
    if (depth - 4) % step:
        below = depth - (depth - 4) % step
        with_or_without = "with" if bottleneck else "without"
        raise ValueError(
            f"depth={depth}, but {with_or_without} bottlenecks a depth is {step}n + 4; the nearest are {below} and "
            f"{below + step}"
        )
    return (depth - 4) // step


def compress(channels: int, reduction: float) -> int:
    """Maps that a transition keeps, floor(theta * m).

    Raises:
        ValueError: if none is left.

    >>> compress(160, 1.0), compress(219, 0.5)
    (160, 109)
    """
    remaining = int(reduction * channels)
    if remaining < 1:
        raise ValueError(f"reduction={reduction} leaves none of a transition's {channels} maps: raise it")
    return remaining
