"""LeNet-5 and LeNet-300-100 (LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998)."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from lowrank_exp.models.constructor import network
from lowrank_exp.models.width import scaled

SMALLEST_INPUT = 16  # 16 -> conv1 12 -> pool 6 -> conv2 2 -> pool 1


class LeNet5(nn.Module):
    """conv1 - pool - conv2 - pool - fc1 - fc2 - fc3; build it by `lenet5`."""

    def __init__(self, width: float, num_classes: int, in_channels: int, input_size: int) -> None:
        super().__init__()
        side = pooled_side(pooled_side(input_size))
        c1, c2, f1, f2 = (scaled(units, width) for units in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, c1, kernel_size=5)
        self.conv2 = nn.Conv2d(c1, c2, kernel_size=5)
        self.fc1 = nn.Linear(c2 * side * side, f1)
        self.fc2 = nn.Linear(f1, f2)
        self.fc3 = nn.Linear(f2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(relu(self.conv1(x)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2)
        x = x.flatten(1)
        x = relu(self.fc1(x))
        x = relu(self.fc2(x))
        return self.fc3(x)


@network
def lenet5(
    num_classes: int = 10, in_channels: int = 1, input_size: int = 32, width: float = 1.0, weights: str | None = None
) -> LeNet5:
    """LeNet-5: two 5x5 convolutions of 6 and 16 channels, three linear layers of 120, 84 and `num_classes`.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults:
    416,520 MACs, 61,470 weights, 61,706 parameters. PyTorch's default initialisation.

    Args:
        num_classes: outputs of fc3.
        in_channels: 1 for grey images.
        input_size: side of the square image in pixels, 16 or more; decides the inputs of fc1 (400 at 32).
        width: multiplier of all channels and hidden units, rounded; 1.0 for the paper's.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. Max pooling without parameters, where the paper averages 2x2 pixels, scales and shifts them by
           trained coefficients and applies a sigmoid.
        2. ReLU instead of the scaled tanh.
        3. Every channel of conv2 reads all six maps; the paper connects some only (its Table I).
        4. fc3 gives logits for a softmax; the paper's output units are radial basis functions.
        5. fc1 is linear over the flattened maps; at 32 x 32 that equals the paper's convolution C5.

    >>> lenet5(input_size=28).fc1
    Linear(in_features=256, out_features=120, bias=True)
    """
    if input_size < SMALLEST_INPUT:
        raise ValueError(
            f"input_size={input_size}, but lenet5 needs {SMALLEST_INPUT} or more: nothing is left of a "
            "smaller image after two 5x5 convolutions and two poolings"
        )
    return LeNet5(width, num_classes, in_channels, input_size)


def pooled_side(side: int) -> int:
    """Side of the map after an unpadded 5x5 convolution and 2x2 pooling.

    >>> pooled_side(32)
    14
    """
    return (side - 4) // 2


class LeNet300100(nn.Module):
    """fc1 - fc2 - fc3 over the pixels; build it by `lenet_300_100`."""

    def __init__(self, width: float, num_classes: int, in_channels: int, input_size: int) -> None:
        super().__init__()
        f1, f2 = (scaled(units, width) for units in (300, 100))
        self.fc1 = nn.Linear(in_channels * input_size * input_size, f1)
        self.fc2 = nn.Linear(f1, f2)
        self.fc3 = nn.Linear(f2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.fc1(x.flatten(1)))
        x = relu(self.fc2(x))
        return self.fc3(x)


@network
def lenet_300_100(
    num_classes: int = 10, in_channels: int = 1, input_size: int = 28, width: float = 1.0, weights: str | None = None
) -> LeNet300100:
    """LeNet-300-100: three linear layers of 300, 100 and `num_classes`, no convolution.

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes). With the defaults:
    266,200 MACs and weights, 266,610 parameters. PyTorch's default initialisation.

    Args:
        num_classes: outputs of fc3.
        in_channels: 1 for grey images.
        input_size: side of the square image in pixels; decides the inputs of fc1 (784 at 28).
        width: multiplier of all channels and hidden units, rounded; 1.0 for the paper's.
        weights: path of a checkpoint to load, see `load_weights_`.

    Raises:
        ValueError: if an argument is out of its range, or `weights` does not fit.

    Differs from the paper:
        1. ReLU instead of the scaled tanh.
        2. fc3 gives logits for a softmax; the paper trains its outputs by squared error.

    >>> lenet_300_100().fc1
    Linear(in_features=784, out_features=300, bias=True)
    """
    return LeNet300100(width, num_classes, in_channels, input_size)
