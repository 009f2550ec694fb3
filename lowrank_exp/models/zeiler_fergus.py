"""The network that Denton, Zaremba, Bruna, LeCun, Fergus compress (Exploiting Linear Structure, NIPS 2014).

It is a variant of Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, which the code of
Denton et al. (wojzaremba/morf) calls MattNet.
"""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from lowrank_exp.models.constructor import network
from lowrank_exp.models.width import scaled

CHANNELS = (96, 256, 512, 1024, 512)  # of the five convolutions
HIDDEN = 4096
DROPOUT = 0.5
SMALLEST_INPUT = 53  # 53 -> conv1 24 -> pool 12 -> conv2 8 -> pool 4 -> pool 2 -> pool 1


class ZeilerFergus(nn.Module):
    """conv1 - pool - norm - conv2 - pool - norm - conv3 - pool - conv4 - conv5 - pool - fc6 - fc7 - fc8."""

    def __init__(self, width: float, num_classes: int, in_channels: int, input_size: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in CHANNELS)
        hidden = scaled(HIDDEN, width)
        side = pooled_side(input_size)
        self.conv1 = nn.Conv2d(in_channels, c1, 7, stride=2)
        self.conv2 = nn.Conv2d(c1, c2, 5)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1)
        self.fc6 = nn.Linear(c5 * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.norm = nn.LocalResponseNorm(size=5, alpha=5 * 2e-4, beta=0.75, k=2)  # PyTorch divides alpha by size
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(pool(relu(self.conv1(x))))
        x = self.norm(pool(relu(self.conv2(x))))
        x = pool(relu(self.conv3(x)))
        x = relu(self.conv4(x))
        x = pool(relu(self.conv5(x)))
        x = self.dropout(relu(self.fc6(x.flatten(1))))
        x = self.dropout(relu(self.fc7(x)))
        return self.fc8(x)


@network
def zeiler_fergus(
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    weights: str | None = None,
) -> ZeilerFergus:
    """The network of Zeiler and Fergus as Denton et al. use it: five convolutions and three linear layers.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults:

    | layer | kernel  | channels    | map       | MACs          |
    |-------|---------|-------------|-----------|---------------|
    | conv1 | 7x7 / 2 | 3 -> 96     | 109 x 109 | 167,664,672   |
    | conv2 | 5x5     | 96 -> 256   | 50 x 50   | 1,536,000,000 |
    | conv3 | 3x3     | 256 -> 512  | 25 x 25   | 737,280,000   |
    | conv4 | 3x3     | 512 -> 1024 | 12 x 12   | 679,477,248   |
    | conv5 | 3x3     | 1024 -> 512 | 12 x 12   | 679,477,248   |

    3,799,899,168 MACs in convolutions, 3,896,269,856 in all; 107,616,032 weights. A response x_c is normalised as
    x_c / (2 + 2e-4 * sum of x_j^2 over 5 channels j around c) ** 0.75. Weights start from a normal distribution of
    deviation 0.01, biases from 0.

    Args:
        width: multiplier of all channels and hidden units but the outputs.
        num_classes: outputs of fc8.
        in_channels: 3 for colour images, 1 for grey.
        input_size: side of the square image in pixels, 53 or more; decides the inputs of fc6 (18,432 at 224).
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper of Zeiler and Fergus, as the code of Denton et al. does:
        1. conv2 strides by 1 instead of 2, and a third pooling lies between conv3 and conv4.
        2. conv3, conv4 and conv5 have 512, 1024 and 512 channels instead of 384, 384 and 256.
        3. conv1 is not padded.

    Poolings are 3x3 with stride 2 and round up: where a window passes the border, it is cut off there.

    >>> zeiler_fergus(width=0.125).fc6
    Linear(in_features=2304, out_features=512, bias=True)
    """
    if input_size < SMALLEST_INPUT:
        raise ValueError(
            f"input_size={input_size}, but zeiler_fergus needs {SMALLEST_INPUT} or more for its four poolings"
        )
    module = ZeilerFergus(width, num_classes, in_channels, input_size)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return module


def pool(x: Tensor) -> Tensor:
    """Max pooling of 3x3 with stride 2, rounded up: (N, C, H, W) -> (N, C, H // 2, W // 2)."""
    return max_pool2d(x, 3, stride=2, ceil_mode=True)


def pooled_side(side: int) -> int:
    """Side of the map that fc6 reads, of an image of that side.

    >>> pooled_side(224)
    6
    """
    conv1 = (side - 7) // 2 + 1
    conv2 = conv1 // 2 - 4
    return conv2 // 2 // 2 // 2
