"""The vanilla networks C^n(X) of RePr (Prakash, Storer, Florencio, Zhang, RePr, CVPR 2019): no pooling, no shortcut."""

from collections import OrderedDict

from torch import Tensor, nn

from lowrank_exp.checks import boolean
from lowrank_exp.models.constructor import check_whole, network


class VanillaCNN(nn.Module):
    """n times (3x3 convolution - batch norm - ReLU), then a linear layer; build it by `vanilla_cnn`."""

    def __init__(
        self, convolutions: int, filters: int, batch_norm: bool, num_classes: int, in_channels: int, input_size: int
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(1, convolutions + 1):
            layers[f"conv{i}"] = nn.Conv2d(in_channels if i == 1 else filters, filters, 3, padding=1)
            if batch_norm:
                layers[f"bn{i}"] = nn.BatchNorm2d(filters)
            layers[f"relu{i}"] = nn.ReLU()
        self.features = nn.Sequential(layers)
        self.fc = nn.Linear(filters * input_size * input_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(1))


@network
def vanilla_cnn(
    convolutions: int = 3,
    filters: int = 32,
    batch_norm: bool = True,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    weights: str | None = None,
) -> VanillaCNN:
    """C^n(X): n 3x3 convolutions of X filters, each with a ReLU, and a linear layer over all pixels of the last maps.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). Every map keeps the image's size.
    With X = 32, at 3 x 32 x 32 and 10 classes:

    | n  | MACs        | weights | parameters | parameters without the linear layer |
    |----|-------------|---------|------------|-------------------------------------|
    | 3  | 20,086,784  | 346,976 | 347,274    | 19,584                              |
    | 8  | 67,272,704  | 393,056 | 393,834    | 66,144                              |
    | 13 | 114,458,624 | 439,136 | 440,394    | 112,704                             |
    | 18 | 161,644,544 | 485,216 | 486,954    | 159,264                             |

    The last column is what RePr's table prints as 20, 66, 113 and 159 thousand. PyTorch's default initialisation.

    Args:
        convolutions: n.
        filters: X, the filters of every convolution.
        batch_norm: a batch norm between convolution and ReLU. The printed counts include it; published
            re-implementations of C^3(32) have none.
        num_classes: outputs of the linear layer.
        in_channels: 3 for colour images.
        input_size: side of the square image in pixels; decides the inputs of the linear layer (X * input_size^2).
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. The paper does not say how it pads. Here one pixel of zeros on each side, so that 18 convolutions fit.
        2. Convolutions have a bias besides their batch norm: only so do the printed counts come out.
        3. The demo that the authors published is another network: 5x5 convolutions, each with max pooling.

    >>> vanilla_cnn(convolutions=2, filters=8, input_size=16).fc
    Linear(in_features=2048, out_features=10, bias=True)
    """
    check_whole("convolutions", convolutions)
    check_whole("filters", filters)
    boolean("batch_norm", batch_norm, f"batch_norm={batch_norm!r}, but it must be true or false")
    return VanillaCNN(convolutions, filters, batch_norm, num_classes, in_channels, input_size)
