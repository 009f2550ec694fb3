"""VGG (Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015).

Names and numbers of the layers are torchvision's: `features.N`, and with the head of ImageNet `classifier.N`.
"""

from torch import Tensor, nn

from lowrank_exp.models.constructor import check_choice, check_whole, network
from lowrank_exp.models.width import scaled

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # by stage
CHANNELS = (64, 128, 256, 512, 512)  # of the convolutions in the five stages
HIDDEN = {"cifar": (), "cifar512": (512,), "cifar512x2": (512, 512), "imagenet": (4096, 4096)}  # layers of a head
MAP_SIDE = {"imagenet": 7}  # of the averaged map that a head reads; others: 1
DROPOUT = 0.5
SMALLEST_INPUT = 32  # five poolings halve the map


class VGG(nn.Module):
    """`features` (the five stages), `avgpool`, `classifier`; build it by `vgg`."""

    def __init__(
        self, depth: int, batch_norm: bool, bias: bool, head: str, width: float, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.features = make_features(depth, batch_norm, bias, width, in_channels)
        self.avgpool = nn.AdaptiveAvgPool2d(MAP_SIDE.get(head, 1))
        self.classifier = make_head(head, width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@network
def vgg(
    depth: int = 16,
    batch_norm: bool = True,
    bias: bool = True,
    head: str = "cifar",
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    weights: str | None = None,
) -> VGG:
    """VGG: five stages of 3x3 convolutions at 64, 128, 256, 512, 512 channels, each pooled, then linear layers.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). MACs of the convolutions:

    | depth | at 3 x 32 x 32 | at 3 x 224 x 224 |
    |-------|----------------|------------------|
    | 11    | 152,764,416    | 7,485,456,384    |
    | 13    | 228,261,888    | 11,184,832,512   |
    | 16    | 313,196,544    | 15,346,630,656   |
    | 19    | 398,131,200    | 19,508,428,800   |

    With 10 classes head "cifar" adds 5,120, "cifar512" 267,264 and "cifar512x2" 529,408; with 1000 classes "imagenet"
    adds 123,633,664.
    With head "imagenet" the public checkpoints of torchvision load, `batch_norm` as the file's. Initialisation as
    torchvision's: He's normal distribution (fan out) in convolutions, deviation 0.01 in linear layers, biases 0.

    Args:
        depth: convolutions and linear layers of the paper's network: 11 (A), 13 (B), 16 (D) or 19 (E).
        batch_norm: a batch norm behind every convolution, which keeps its bias.
        bias: False: convolutions have none, as some networks with batch norm.
        head: behind the convolutions, "cifar" is one linear layer, "cifar512" a hidden layer of 512 and a linear
            one, "cifar512x2" two such hidden layers, all over the mean of the map; "imagenet" two hidden layers of
            4096 and a linear one over the map, averaged to 7 x 7 where it has another size. Dropout of one half
            behind hidden layers.
        width: multiplier of all channels and hidden units but the outputs.
        num_classes: outputs of the last linear layer.
        in_channels: 3 for colour images, 1 for grey.
        input_size: side of the square image in pixels, 32 or more; decides no weight's shape.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. Batch norm and the heads for CIFAR are later than the paper.
        2. The paper starts its deep networks from weights of the shallow one.

    >>> [len(vgg(depth, width=0.1).features) for depth in (11, 13, 16, 19)]
    [29, 35, 44, 53]
    """
    check_whole("depth", depth)
    if depth not in CONVOLUTIONS:
        raise ValueError(f"depth={depth}, but a VGG has one of {', '.join(map(str, CONVOLUTIONS))} layers")
    check_choice("head", head, tuple(HIDDEN))
    if input_size < SMALLEST_INPUT:
        raise ValueError(f"input_size={input_size}, but vgg needs {SMALLEST_INPUT} or more: five poolings halve it")
    module = VGG(depth, batch_norm, bias, head, width, num_classes, in_channels)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return module


def make_features(depth: int, batch_norm: bool, bias: bool, width: float, in_channels: int) -> nn.Sequential:
    """The five stages in one row: convolution (batch norm) ReLU, again and again, then max pooling."""
    layers: list[nn.Module] = []
    for convolutions, channels in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
        out_channels = scaled(channels, width)
        for _ in range(convolutions):
            layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def make_head(head: str, width: float, num_classes: int) -> nn.Module:
    """The linear layers of `head` over the flattened, averaged map of the last stage."""
    inputs = scaled(CHANNELS[-1], width) * MAP_SIDE.get(head, 1) ** 2
    if not HIDDEN[head]:
        return nn.Linear(inputs, num_classes)
    layers: list[nn.Module] = []
    for units in HIDDEN[head]:
        hidden = scaled(units, width)
        layers += [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(DROPOUT)]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, num_classes))
