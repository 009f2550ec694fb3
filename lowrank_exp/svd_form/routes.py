"""What an SVD form costs by either route: the product as weight, or the input through the two factors."""

import math

from torch import nn

from lowrank_exp.decomposition.convolution import TRANSPOSED, axes

# Seconds per MAC against those of the dense convolution, rounded from measured steps: a matrix product is faster, two
# thin convolutions are slower, and more so where both have a kernel.
_PRODUCT = 0.5
_POINTWISE = 1.1
_BOTH_KERNELS = 1.3


def factors_are_cheaper(layer: nn.Module, factors: tuple[nn.Module, nn.Module], shape: tuple[int, ...]) -> bool:
    """Whether two thinner layers cost less than multiplying them out and one dense layer, for inputs of `shape`.

    Counted in MACs of the forward pass, weighted by the speed of each kind; the backward pass has twice those by either
    route.

    Args:
        layer: the dense layer.
        factors: the two layers that take its place at the rank.
        shape: of the input, with or without the dimension of the batch.

    >>> from lowrank_exp.decomposition import ChannelSVD
    >>> layer = nn.Conv2d(64, 64, 3, padding=1)
    >>> factors = ChannelSVD().skeleton(layer, 64)
    >>> factors_are_cheaper(layer, factors, (1, 64, 4, 4)), factors_are_cheaper(layer, factors, (128, 64, 32, 32))
    (True, False)
    """
    first, second = factors
    product = first.weight.numel() * second.weight.numel() // _maps(first)
    thin = _macs(first, shape) + _macs(second, _shape_after(first, shape))
    return _slowness(first, second) * thin < _macs(layer, shape) + _PRODUCT * product


def _slowness(first: nn.Module, second: nn.Module) -> float:
    if isinstance(first, nn.Linear):
        return 1.0
    both = all(math.prod(factor.kernel_size) > 1 for factor in (first, second))
    return _BOTH_KERNELS if both else _POINTWISE


def _maps(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _macs(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Every entry of the weight is used once at every place: of the output, or of a transposed convolution's input."""
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * math.prod(shape[:-1])
    places = shape if isinstance(layer, TRANSPOSED) else _shape_after(layer, shape)
    channels = len(shape) - axes(layer) - 1
    return layer.weight.numel() * math.prod(places[:channels]) * math.prod(places[channels + 1 :])


def _shape_after(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (*shape[:-1], layer.out_features)
    sizes = [_size_after(layer, axis, size) for axis, size in enumerate(shape[-axes(layer) :])]
    return (*shape[: -axes(layer) - 1], layer.out_channels, *sizes)


def _size_after(layer: nn.Module, axis: int, size: int) -> int:
    if layer.padding == "same":
        return size
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    padding = 0 if layer.padding == "valid" else layer.padding[axis]
    if isinstance(layer, TRANSPOSED):
        return (size - 1) * layer.stride[axis] - 2 * padding + reach + layer.output_padding[axis] + 1
    return (size + 2 * padding - reach - 1) // layer.stride[axis] + 1
