"""SPP-10 (Zhang, Zou, He, Sun, Accelerating Very Deep Convolutional Networks, PAMI 2016, arXiv 1505.06798).

Its pyramid is that of He, Zhang, Ren, Sun, Spatial Pyramid Pooling in Deep Convolutional Networks, ECCV 2014.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, relu

from lowrank_exp.models.constructor import network
from lowrank_exp.models.width import scaled

CHANNELS = (96, 256, 512)  # of conv1, conv2, and conv3 to conv7
HIDDEN = 4096
LEVELS = (6, 3, 2, 1)  # the pyramid: 6 x 6, 3 x 3, 2 x 2 and 1 x 1 cells
DROPOUT = 0.5
SMALLEST_INPUT = 79  # 79 -> conv1 37 -> pool 13 -> conv2 11 -> pool 6, one pixel a cell


class PyramidPool(nn.Module):
    """Spatial pyramid pooling: the maximum of every cell of grids over the map, of n x n cells for n in `levels`.

    (N, C, H, W) -> (N, C * sum of n^2), level by level, in each channel by channel and row by row, no parameters.
    Cell i of n covers the rows floor(i H / n) to ceil((i + 1) H / n) - 1, i = 0 .. n - 1; columns likewise.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([adaptive_max_pool2d(x, n).flatten(1) for n in self.levels], dim=1)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class SPP10(nn.Module):
    """conv1 - pool - conv2 - pool - conv3 to conv7 - pyramid - fc8 - fc9 - fc10; build it by `spp10`."""

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        c1, c2, c3 = (scaled(channels, width) for channels in CHANNELS)
        hidden = scaled(HIDDEN, width)
        self.conv1 = nn.Conv2d(in_channels, c1, 7, stride=2)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=1)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv5 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv6 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv7 = nn.Conv2d(c3, c3, 3, padding=1)
        self.pyramid = PyramidPool(LEVELS)
        self.fc8 = nn.Linear(c3 * sum(n * n for n in LEVELS), hidden)
        self.fc9 = nn.Linear(hidden, hidden)
        self.fc10 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(relu(self.conv1(x)), 3, stride=3, ceil_mode=True)
        x = max_pool2d(relu(self.conv2(x)), 2, stride=2, ceil_mode=True)
        for convolution in (self.conv3, self.conv4, self.conv5, self.conv6, self.conv7):
            x = relu(convolution(x))
        x = self.dropout(relu(self.fc8(self.pyramid(x))))
        x = self.dropout(relu(self.fc9(x)))
        return self.fc10(x)


@network
def spp10(
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    weights: str | None = None,
) -> SPP10:
    """SPP-10: seven convolutions, spatial pyramid pooling, three linear layers.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults:

    | layer          | kernel   | channels   | map       | MACs        | of the convolutions |
    |----------------|----------|------------|-----------|-------------|---------------------|
    | conv1          | 7x7 / 2  | 3 -> 96    | 109 x 109 | 167,664,672 | 3.8 %               |
    | conv2          | 5x5      | 96 -> 256  | 35 x 35   | 752,640,000 | 17.3 %              |
    | conv3          | 3x3      | 256 -> 512 | 18 x 18   | 382,205,952 | 8.8 %               |
    | conv4 to conv7 | 3x3      | 512 -> 512 | 18 x 18   | 764,411,904 | 17.5 % each         |

    4,360,158,240 MACs in convolutions, 4,485,889,056 in all; 136,976,160 weights. Convolutions start from He's normal
    distribution (fan in), linear layers from deviation 0.01, biases from 0.

    Args:
        width: multiplier of all channels and hidden units but the outputs.
        num_classes: outputs of fc10.
        in_channels: 3 for colour images, 1 for grey.
        input_size: side of the square image in pixels, 79 or more; decides no weight's shape.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Kernels, channels and map sizes are the paper's. What it leaves open is chosen so that these maps come out:
        1. conv1 is not padded, conv2 is padded by 1 and conv3 to conv7 by 1.
        2. The pooling behind conv1 is 3x3 with stride 3 (109 to 37), that behind conv2 2x2 with stride 2 (35 to
           18), both rounded up as Caffe does.
        3. The pyramid has 6x6, 3x3, 2x2 and 1x1 cells, as in the code of SPP-net: 50 numbers a channel.
        4. Hidden layers have 4096 units and a dropout of one half; no response normalisation; the initialisation.

    >>> spp10(width=0.125).fc8
    Linear(in_features=3200, out_features=512, bias=True)
    """
    if input_size < SMALLEST_INPUT:
        raise ValueError(
            f"input_size={input_size}, but spp10 needs {SMALLEST_INPUT} or more: a smaller map has fewer pixels "
            f"than the {LEVELS[0]} x {LEVELS[0]} cells of its pyramid"
        )
    module = SPP10(width, num_classes, in_channels)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return module
