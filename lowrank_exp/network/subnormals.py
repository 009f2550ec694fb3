"""Subnormal weights: numbers so small that a CPU takes many times as long for each of them.

Training with decay, pruning softly and penalties on singular values leave some of them, and a convolution that reads
them takes 5 to 50 times its time on a CPU. As zeros they compute the same in every digit that counts.
"""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Below these a number has fewer digits, and the processor takes its slow way. Not float16, whose own range is so short
# that its subnormals, 6e-8 to 6e-5, are weights like others: they are computed as float32, in which they are normal.
LIMITS = {dtype: torch.finfo(dtype).smallest_normal for dtype in (torch.float32, torch.float64, torch.bfloat16)}


class SubnormalWarning(UserWarning):
    """Parameters of factors were subnormal and have been set to zero; `count` of them."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count:,} parameters of the factors were subnormal (below {LIMITS[torch.float32]:.2g} in float32), with "
            "which CPUs compute slowly, and have been set to zero"
        )
        self.count = count


def count_subnormals(model: nn.Module) -> int:
    """How many entries of the parameters of `model` are subnormal: not 0, and below the smallest normal of their type.

    That is 1.2e-38 in float32 and bfloat16, 2.2e-308 in float64. Those of float16 do not count: they are ordinary
    weights, and CPUs compute with them in float32, where they are normal. On the meta device there are none.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1e-40, 1.0]]))
    >>> count_subnormals(layer)
    1
    """
    return sum(int(_subnormal(parameter).sum()) for parameter in _parameters(model))


def clear_subnormals_(model: nn.Module) -> int:
    """Set the subnormal entries of the parameters of `model` to zero, in place; how many there were.

    See `count_subnormals` for what counts.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1e-40, 1.0]]))
    >>> clear_subnormals_(layer), layer.weight.tolist()
    (1, [[0.0, 1.0]])
    """
    cleared = 0
    with torch.no_grad():
        for parameter in _parameters(model):
            found = _subnormal(parameter)
            if count := int(found.sum()):
                parameter.masked_fill_(found, 0)
                cleared += count
    return cleared


def clear_factors_(factors: Iterable[nn.Module]) -> None:
    """`clear_subnormals_` of factors that were just made, with a `SubnormalWarning` where there were some."""
    if cleared := sum(map(clear_subnormals_, factors)):
        warnings.warn(SubnormalWarning(cleared), stacklevel=3)


def slowed_down(model: nn.Module) -> list[str]:
    """A sentence on the time that `model` takes, if some of its parameters are subnormal."""
    if not (count := count_subnormals(model)):
        return []
    return [
        f"{count:,} parameters are subnormal: CPU convolutions with them are 5 to 50 x slower, and a smaller network "
        "looks faster beside this one than it is. They add nothing: set them to zero by "
        "lowrank_exp.network.subnormals.clear_subnormals_(model), or export the network"
    ]


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return [one for one in model.parameters() if one.dtype in LIMITS and not one.is_meta]


def _subnormal(parameter: Tensor) -> Tensor:
    return (parameter.detach() != 0) & (parameter.detach().abs() < LIMITS[parameter.dtype])
