"""AlexNet (Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012).

`alexnet` is the network of Caffe's model zoo (bvlc_alexnet), which papers on compression count and compress;
`alexnet_torchvision` is the one-tower variant of torchvision, whose public checkpoints load.
"""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from lowrank_exp.models.constructor import check_whole, network
from lowrank_exp.models.width import scaled

SMALLEST_INPUT = 67  # 67 -> conv1 15 -> pool 7 -> pool 3 -> pool 1
SMALLEST_INPUT_TORCHVISION = 63  # its conv1 pads by 2: the same maps
CHANNELS = (96, 256, 384, 384, 256)  # of the five convolutions
CHANNELS_TORCHVISION = (64, 192, 384, 256, 256)
HIDDEN = 4096
DROPOUT = 0.5


class AlexNet(nn.Module):
    """conv1 - norm - pool - conv2 - norm - pool - conv3 - conv4 - conv5 - pool - fc6 - fc7 - fc8; see `alexnet`."""

    def __init__(self, groups: int, width: float, num_classes: int, in_channels: int, input_size: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(channels, width, multiple=groups) for channels in CHANNELS)
        hidden = scaled(HIDDEN, width)
        side = pooled_side(input_size)
        self.conv1 = nn.Conv2d(in_channels, c1, 11, stride=4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=groups)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=groups)
        self.fc6 = nn.Linear(c5 * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.norm = nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(self.norm(relu(self.conv1(x))), 3, stride=2)
        x = max_pool2d(self.norm(relu(self.conv2(x))), 3, stride=2)
        x = relu(self.conv3(x))
        x = relu(self.conv4(x))
        x = max_pool2d(relu(self.conv5(x)), 3, stride=2)
        x = self.dropout(relu(self.fc6(x.flatten(1))))
        x = self.dropout(relu(self.fc7(x)))
        return self.fc8(x)


@network
def alexnet(
    groups: int = 2,
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 227,
    weights: str | None = None,
) -> AlexNet:
    """AlexNet as Caffe has it: five convolutions, two local response normalisations, three linear layers.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults, in MACs:

    | conv1       | conv2       | conv3       | conv4       | conv5      | convolutions | all         |
    |-------------|-------------|-------------|-------------|------------|--------------|-------------|
    | 105,415,200 | 223,948,800 | 149,520,384 | 112,140,288 | 74,760,192 | 665,784,864  | 724,406,816 |

    60,954,656 weights (2,332,704 of them in convolutions) and 60,965,224 parameters. With `groups=1` 1,076,634,144
    convolution MACs. Caffe's initialisation: normal weights of deviation 0.01 (0.005 in fc6 and fc7), biases 0.1 in
    conv2, conv4, conv5, fc6 and fc7, else 0.

    Args:
        groups: of conv2, conv4 and conv5: 2 as on the paper's two GPUs, 1 joins the halves.
        width: multiplier of all channels and hidden units but the outputs; channels are a multiple of `groups`.
        num_classes: outputs of fc8.
        in_channels: 3 for colour images, 1 for grey.
        input_size: side of the square image in pixels, 67 or more; decides the inputs of fc6 (9,216 at 227).
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. 227 pixels, where the paper says 224: its own map of 55 x 55 needs 227.
        2. The normalisation divides by (1 + 1e-4 / 5 * sum of 5 squares) ** 0.75, as Caffe does; the paper has
           2 + 1e-4 * sum.
        3. Biases that start from 1 in the paper start from 0.1, and fc6 and fc7 from half the deviation.

    Differs from Caffe: poolings round down, Caffe's round up; at 227 no pooling has to round.

    >>> alexnet(width=0.125).fc6
    Linear(in_features=1152, out_features=512, bias=True)
    """
    check_whole("groups", groups)
    if input_size < SMALLEST_INPUT:
        raise ValueError(f"input_size={input_size}, but alexnet needs {SMALLEST_INPUT} or more for its three poolings")
    module = AlexNet(groups, width, num_classes, in_channels, input_size)
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.005 if name in ("fc6", "fc7") else 0.01)
            nn.init.constant_(layer.bias, 0.1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)
    return module


def pooled_side(side: int) -> int:
    """Side of the map after conv1 (11 x 11, stride 4) and three poolings of 3 x 3, stride 2; the rest keeps it.

    >>> pooled_side(227)
    6
    """
    side = (side - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side


class AlexNetTorchvision(nn.Module):
    """`features`, `avgpool`, `classifier`, numbered as torchvision's; build it by `alexnet_torchvision`."""

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in CHANNELS_TORCHVISION)
        hidden = scaled(HIDDEN, width)
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, c1, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(DROPOUT), nn.Linear(c5 * 6 * 6, hidden), nn.ReLU()),
            *(nn.Dropout(DROPOUT), nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@network
def alexnet_torchvision(
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    weights: str | None = None,
) -> AlexNetTorchvision:
    """AlexNet as torchvision has it: one tower, no normalisation; torchvision's checkpoints load as they are.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults: 714,188,480
    MACs (655,566,528 in convolutions), 61,090,496 weights, 61,100,840 parameters. PyTorch's default
    initialisation, as torchvision. Names: `features.0`, `.3`, `.6`, `.8`, `.10` are the convolutions,
    `classifier.1`, `.4`, `.6` the linear layers.

    Args:
        width: multiplier of all channels and hidden units but the outputs.
        num_classes: outputs of the last linear layer.
        in_channels: 3 for colour images, 1 for grey.
        input_size: side of the square image in pixels, 63 or more; decides no weight's shape.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper: channels and the missing groups are those of Krizhevsky, One Weird Trick for
    Parallelizing Convolutional Neural Networks, 2014, as torchvision took them over.

    >>> alexnet_torchvision(width=0.125).classifier[1]
    Linear(in_features=1152, out_features=512, bias=True)
    """
    if input_size < SMALLEST_INPUT_TORCHVISION:
        raise ValueError(
            f"input_size={input_size}, but alexnet_torchvision needs {SMALLEST_INPUT_TORCHVISION} or more for "
            "its three poolings"
        )
    return AlexNetTorchvision(width, num_classes, in_channels)
