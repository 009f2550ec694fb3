"""Residual networks for small images (He, Zhang, Ren, Sun, Deep Residual Learning, CVPR 2016, section 4.2).

Parameter names follow the public checkpoints of akamaster/pytorch_resnet_cifar10, which load as they are.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from lowrank_exp.layers.pad_shortcut import PadShortcut
from lowrank_exp.layers.residual_parts import ResidualParts
from lowrank_exp.models.constructor import check_choice, check_whole, network
from lowrank_exp.models.width import scaled

WIDTHS = (16, 32, 64)  # channels of the 3x3 convolutions in the three stages
SMALLEST_INPUT = 4  # two stages halve the map


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first one strides."""

    expansion = 1
    convolutions = 2  # the shortcut's not counted

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(in_channels, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.shortcut(x))

    def residual_parts(self) -> ResidualParts:
        return ResidualParts(self.shortcut, self.bn2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the last one to four times the width; the 3x3 strides."""

    expansion = 4
    convolutions = 3

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu(out + self.shortcut(x))

    def residual_parts(self) -> ResidualParts:
        return ResidualParts(self.shortcut, self.bn3)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
SHORTCUTS = ("a", "b")


class CifarResNet(nn.Module):
    """conv1 - bn1 - layer1, layer2, layer3 - mean over the map - linear; build it by `cifar_resnet`."""

    def __init__(
        self, block: str, blocks_per_stage: int, shortcut: str, width: float, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        expansion = BLOCKS[block].expansion
        w1, w2, w3 = (scaled(channels, width) for channels in WIDTHS)
        self.conv1 = nn.Conv2d(in_channels, w1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(w1)
        self.layer1 = make_stage(block, w1, w1, 1, blocks_per_stage, shortcut)
        self.layer2 = make_stage(block, expansion * w1, w2, 2, blocks_per_stage, shortcut)
        self.layer3 = make_stage(block, expansion * w2, w3, 2, blocks_per_stage, shortcut)
        self.linear = nn.Linear(expansion * w3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


@network
def cifar_resnet(
    depth: int | None = 20,
    shortcut: str = "a",
    block: str = "basic",
    blocks_per_stage: int | None = None,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    width: float = 1.0,
    weights: str | None = None,
) -> CifarResNet:
    """ResNet for CIFAR: a 3x3 convolution, three stages of n blocks at widths 16, 32, 64, a linear layer.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). n comes either from the
    depth, which is 6n + 2 with basic blocks (20, 32, 44, 56, 110) and 9n + 2 with bottlenecks, or is given
    as `blocks_per_stage`. At 3 x 32 x 32, convolutions only:

    | depth | block | shortcut | convolutions | MACs        | weights   |
    |-------|-------|----------|--------------|-------------|-----------|
    | 20    | basic | a        | 19           | 40,550,400  | 267,696   |
    | 32    | basic | a        | 31           | 68,861,952  | 461,232   |
    | 56    | basic | a        | 55           | 125,485,056 | 848,304   |
    | 110   | basic | a        | 109          | 252,887,040 | 1,719,216 |
    | 20    | basic | b        | 21           | 40,812,544  | 270,256   |

    Convolutions start from He's normal distribution (fan in), the linear layer's weight too; batch norms from
    scale 1 and shift 0.

    Args:
        depth: layers along the longest path, convolutions and the linear one; None if `blocks_per_stage` is
            set.
        shortcut: where the shape changes, "a" subsamples and pads with zero channels (no parameters), "b" is
            a strided 1x1 convolution with batch norm. Identity everywhere else.
        block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1 to four times the width).
        blocks_per_stage: n, instead of a depth. What the code of SVD training (Yang et al., arXiv 2004.09031)
            calls ResNet-56 and ResNet-110 are bottlenecks with shortcut b and n = 9 and 18: 85 and 166
            convolutions, 127,320,064 and 247,644,160 MACs.
        num_classes: outputs of the linear layer.
        in_channels: 3 for colour images.
        input_size: side of the square image in pixels, 4 or more; decides no weight's shape.
        width: multiplier of the channels of all convolutions, rounded; 1.0 for the paper's.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, if not exactly one of `depth` and `blocks_per_stage`
            is given, if no n gives the depth, or if `weights` does not fit.

    Differs from the paper:
        1. Shortcut A pads zero channels in front and behind, as the public checkpoints expect; the paper does
           not say where.
        2. Section 4.2 uses basic blocks and shortcut A only. Shortcut B and bottlenecks are taken over from
           section 4.1, with a bottleneck's stride on its 3x3 instead of its first 1x1 convolution.

    >>> cifar_resnet(depth=56).zoo["arguments"]["depth"], len(cifar_resnet(depth=56).layer1)
    (56, 9)
    """
    if input_size < SMALLEST_INPUT:
        raise ValueError(f"input_size={input_size}, but cifar_resnet needs {SMALLEST_INPUT} or more")
    check_choice("shortcut", shortcut, SHORTCUTS)
    check_choice("block", block, tuple(BLOCKS))
    n = blocks_of(depth, block, blocks_per_stage)
    module = CifarResNet(block, n, shortcut, width, num_classes, in_channels)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return module


def blocks_of(depth: int | None, block: str, blocks_per_stage: int | None) -> int:
    """Blocks in each of the three stages: n of depth = 6n + 2 (basic) or 9n + 2 (bottleneck), or as given.

    Raises:
        ValueError: if not exactly one of the two is given, or the depth is not of that form.

    >>> blocks_of(110, "basic", None), blocks_of(110, "bottleneck", None), blocks_of(None, "basic", 4)
    (18, 12, 4)
    """
    if (depth is None) == (blocks_per_stage is None):
        raise ValueError(
            f"depth={depth} and blocks_per_stage={blocks_per_stage}, but exactly one of them decides the "
            "number of blocks: set the other one to null (None)"
        )
    if depth is None:
        check_whole("blocks_per_stage", blocks_per_stage)
        return blocks_per_stage
    step = 3 * BLOCKS[block].convolutions
    check_whole("depth", depth, at_least=step + 2)
    if (depth - 2) % step:
        below = depth - (depth - 2) % step
        raise ValueError(
            f"depth={depth}, but with {block} blocks a depth is {step}n + 2; the nearest are {below} and "
            f"{below + step}. Or set depth=null and blocks_per_stage=n"
        )
    return (depth - 2) // step


def make_stage(block: str, in_channels: int, width: int, stride: int, blocks: int, shortcut: str) -> nn.Sequential:
    """`blocks` blocks in a row; the first one changes channels and strides."""
    kind = BLOCKS[block]
    out_channels = kind.expansion * width
    first = kind(in_channels, width, stride, shortcut)
    return nn.Sequential(first, *(kind(out_channels, width, 1, shortcut) for _ in range(blocks - 1)))


def make_shortcut(in_channels: int, out_channels: int, stride: int, shortcut: str) -> nn.Module:
    """Identity where the shape stays, else `PadShortcut` ("a") or a 1x1 convolution with batch norm ("b")."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "a":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
