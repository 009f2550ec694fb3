"""Residual networks of four stages (He, Zhang, Ren, Sun, Deep Residual Learning, CVPR 2016, section 4.1).

Parameter names are those of torchvision.models.resnet, whose state dicts load as they are. The networks for
CIFAR of the paper's section 4.2 (depths 20, 32, 44, 56, 110) are in `cifar_resnet`.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from lowrank_exp.layers.residual_parts import ResidualParts
from lowrank_exp.models.constructor import check_choice, network
from lowrank_exp.models.width import scaled

WIDTHS = (64, 128, 256, 512)  # of the four stages; the stem has the first one
SMALLEST_INPUT = {"cifar": 8, "imagenet": 32}  # three stages halve the map; the ImageNet stem does so twice more


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first one strides."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = make_shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.downsample(x))

    def residual_parts(self) -> ResidualParts:
        return ResidualParts(self.downsample, self.bn2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, the last one to four times the width; the 3x3 strides."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = make_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu(out + self.downsample(x))

    def residual_parts(self) -> ResidualParts:
        return ResidualParts(self.downsample, self.bn3)


Block = type[BasicBlock] | type[Bottleneck]

# depth: the block, and how many of it each of the four stages has (Table 1 of the paper)
DEPTHS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """conv1 - bn1 - (maxpool) - layer1 ... layer4 - mean over the map - fc; build it by `resnet`."""

    def __init__(self, depth: int, stem: str, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        block, blocks = DEPTHS[depth]
        w1, w2, w3, w4 = (scaled(channels, width) for channels in WIDTHS)
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, w1, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(w1)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        e = block.expansion
        self.layer1 = make_stage(block, blocks[0], w1, w1, 1)
        self.layer2 = make_stage(block, blocks[1], e * w1, w2, 2)
        self.layer3 = make_stage(block, blocks[2], e * w2, w3, 2)
        self.layer4 = make_stage(block, blocks[3], e * w3, w4, 2)
        self.fc = nn.Linear(e * w4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


@network
def resnet(
    depth: int = 18,
    stem: str = "cifar",
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    weights: str | None = None,
) -> ResNet:
    """ResNet-18, 34, 50, 101 or 152: a stem, four stages at widths 64, 128, 256, 512, a linear layer.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). Where the shape changes the
    shortcut is a strided 1x1 convolution with batch norm (the paper's option B), else the identity. MACs and weights
    of convolutions and linear layer, parameters of all:

    | depth | stem     | input         | classes | MACs          | weights    | parameters |
    |-------|----------|---------------|---------|---------------|------------|------------|
    | 18    | cifar    | 3 x 32 x 32   | 10      | 555,422,720   | 11,164,352 | 11,173,962 |
    | 34    | cifar    | 3 x 32 x 32   | 10      | 1,159,402,496 | 21,265,088 | 21,282,122 |
    | 50    | cifar    | 3 x 32 x 32   | 10      | 1,297,829,888 | 23,467,712 | 23,520,842 |
    | 18    | imagenet | 3 x 224 x 224 | 1000    | 1,814,073,344 | 11,678,912 | 11,689,512 |
    | 50    | imagenet | 3 x 224 x 224 | 1000    | 4,089,184,256 | 25,502,912 | 25,557,032 |

    Convolutions start from He's normal distribution (fan out), batch norms from scale 1 and shift 0, the linear layer
    from PyTorch's default: as torchvision does, and with the same seed from the same numbers.

    Args:
        depth: 18 and 34 have blocks of two 3x3 convolutions; 50, 101 and 152 have bottlenecks.
        stem: "cifar" is a 3x3 convolution of stride 1, for small images; "imagenet" a 7x7 one of stride 2 and a 3x3
            max pooling of stride 2, as in the paper and in torchvision.
        width: multiplier of the channels of all convolutions, rounded; 1.0 for the paper's.
        num_classes: outputs of the linear layer.
        in_channels: 3 for colour images.
        input_size: side of the square image in pixels, 8 or more with the CIFAR stem, 32 or more with the ImageNet
            stem; decides no weight's shape.
        weights: path of a checkpoint to load, one of torchvision too, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. A bottleneck strides in its 3x3 instead of its first 1x1 convolution, as torchvision's does.
        2. The CIFAR stem is not the paper's, which has other networks for CIFAR. It is what others call ResNet-18 on
           CIFAR: Pufferfish (Wang et al., MLSys 2021), whose code leaves out the batch norm after the stem and so has
           128 parameters fewer (11,173,834).

    >>> resnet(depth=18, width=0.25).layer4[1].conv2.weight.shape
    torch.Size([128, 128, 3, 3])
    """
    if depth not in DEPTHS:
        raise ValueError(
            f"depth={depth!r}, but it must be one of {', '.join(map(str, DEPTHS))}; 20, 32, 44, 56 and 110 are depths "
            "of cifar_resnet: model=resnet20 ..."
        )
    check_choice("stem", stem, tuple(SMALLEST_INPUT))
    if input_size < SMALLEST_INPUT[stem]:
        raise ValueError(
            f"input_size={input_size}, but resnet with stem={stem} needs {SMALLEST_INPUT[stem]} or more"
            + ("; stem=cifar is for small images" if stem == "imagenet" else "")
        )
    module = ResNet(depth, stem, width, num_classes, in_channels)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


def make_stage(block: Block, blocks: int, in_channels: int, width: int, stride: int) -> nn.Sequential:
    """`blocks` blocks in a row; the first one changes channels and strides."""
    first = block(in_channels, width, stride)
    return nn.Sequential(first, *(block(block.expansion * width, width, 1) for _ in range(blocks - 1)))


def make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity where the shape stays, else a strided 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
