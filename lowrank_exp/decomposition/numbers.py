"""The numbers of a weight in a type wide enough to be squared, and factors within the range of theirs."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Largest entries between which float32 holds squares, and products of squares, with room for sums over a kernel.
_ORDINARY = (1e-8, 1e8)
_SQUARED = (1e-75, 1e75)  # the same of float64


def numbers(weight: Tensor) -> Tensor:
    """`weight`, detached, in float32; in float64 where it has that type or its squares would leave float32's range."""
    weight = weight.detach()
    if weight.dtype == torch.float64:
        return weight
    weight = weight.float()
    return weight if weight.is_meta or _within(weight, _ORDINARY) else weight.double()


def too_far(weight: Tensor) -> bool:
    """Whether not even float64 holds the squares of a weight."""
    return not weight.is_meta and not _within(weight.detach(), _SQUARED)


def within_range(weights: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """The factors of a product, as they are where `dtype` holds them, else with their scales made alike.

    Scales are moved from factor to factor by powers of two, which changes no digit of them or their product.

    Raises:
        ValueError: their product is out of range all the same.
    """
    limits = torch.finfo(dtype)
    peaks = [float(weight.detach().abs().max()) if weight.numel() and not weight.is_meta else 0.0 for weight in weights]
    if not all(peaks) or all(limits.smallest_normal <= peak <= limits.max for peak in peaks):
        return weights
    exponents = torch.tensor(peaks, dtype=torch.float64).frexp().exponent.tolist()
    share, over = divmod(sum(exponents), len(exponents))
    moves = [share + (place < over) - exponent for place, exponent in enumerate(exponents)]
    moved = [_times_power(weight.double(), move) for weight, move in zip(weights, moves, strict=True)]
    if max(float(weight.abs().max()) for weight in moved) > limits.max:
        raise ValueError(f"its factors reach beyond {limits.max:.4g}, where {str(dtype).removeprefix('torch.')} ends")
    return moved


def _within(weight: Tensor, ends: tuple[float, float]) -> bool:
    peak = float(weight.abs().max()) if weight.numel() else 0.0
    return peak == 0 or ends[0] <= peak <= ends[1]


def _times_power(weight: Tensor, exponent: int) -> Tensor:
    """`weight 2^exponent`; in two steps, each within float64."""
    half = exponent // 2
    return weight * 2.0**half * 2.0 ** (exponent - half)
