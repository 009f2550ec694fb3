"""A network made narrower: all layers by one width, until it has so many MACs.

Legend: w width, a multiplier of channels in (0, 1]; C coupled channels of a group.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from lowrank_exp.checks import WithoutEffectError
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.pruning.counting import removed_macs
from lowrank_exp.pruning.coupling import couple
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.remove import remove_
from lowrank_exp.pruning.selection import parts


@torch.no_grad()
def narrow_(network: nn.Module, macs: int, example_input: Tensor) -> float:
    """Give an untrained network, in place, the width at which its MACs are nearest to `macs`.

    Every group of coupled channels keeps `max(1, round(w C))` of them: as many of every group of a grouped convolution,
    and of those that a layer makes along a padded shortcut. So a network of our zoo gets the shapes that its own option
    `width` gives. What is left of the drawn weights is scaled by the square root of the share of inputs gone, since
    layers are drawn with a variance of one over their inputs.

    Args:
        network: as its constructor draws it.
        macs: for one image, of convolutions and linear layers.
        example_input: `(N, C, ...)`.

    Returns:
        w.

    Raises:
        WithoutEffectError: there are no channels that could go, and why, layer by layer; or not so many MACs as asked.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> narrow_(net, 20 * 16, Tensor(1, 3, 4, 4)), net[0].out_channels
    (0.5, 4)
    """
    groups, reasons = couple(network, example_input)
    if not groups:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise WithoutEffectError(f"this network has no width: none of its channels can go ({told or 'it has none'})")
    widths = _widths(groups)
    place = min(_around(network, groups, widths, macs, example_input), key=lambda pair: abs(pair[1] - macs))[0]
    if place == len(widths) - 1:
        raise WithoutEffectError(f"the network at its own width is the one nearest to {macs:,} MACs")
    w = widths[place]
    fans = {name: layer.weight[0].numel() for name, layer in _layers(network)}
    remove_(network, _kept(groups, w), groups=groups)
    for name, layer in _layers(network):
        scale = math.sqrt(fans[name] / layer.weight[0].numel())
        for parameter in filter(lambda one: one is not None, (layer.weight, layer.bias)):
            parameter.mul_(scale)
    return w


def _widths(groups: Sequence[ChannelGroup]) -> list[float]:
    """A width for every network that some width gives, rising: between those at which a number of channels changes."""
    sizes = {size for group in groups for part in _parts(group) for size in _sizes(part)}
    steps = sorted({(kept + 0.5) / size for size in sizes for kept in range(1, size)})
    return [(low + high) / 2 for low, high in pairwise([0.0, *steps, 1.0])]


def _around(
    network: nn.Module, groups: Sequence[ChannelGroup], widths: Sequence[float], macs: int, example_input: Tensor
) -> list[tuple[int, int]]:
    """The places of the widest of `widths` with at most so many MACs and of the next one, with their MACs."""

    def cost(place: int) -> int:
        return removed_macs(network, _kept(groups, widths[place]), example_input, groups=groups)

    low, high = 0, len(widths) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= macs else (low, middle)
    return [(place, cost(place)) for place in sorted({low, high})]


def _kept(groups: Sequence[ChannelGroup], w: float) -> dict[str | ChannelGroup, Sequence[int]]:
    """By group the channels that stay at width w, the first ones."""
    return {group: sorted(c for part in _parts(group) for c in _first(part, w)) for group in groups}


def _first(part: Sequence[Sequence[int]], w: float) -> list[int]:
    kept: list[int] = []
    for channels, size in zip(part, _sizes(part), strict=True):
        kept += channels[: max(1, round(w * size)) - len(kept)]
    return kept


def _sizes(part: Sequence[Sequence[int]]) -> list[int]:
    """How many channels the layers make that make those of the first entry alone, of the first two, and so on."""
    return list(accumulate(map(len, part)))


def _parts(group: ChannelGroup) -> list[list[list[int]]]:
    """Channels by their place in grouped convolutions, then by who makes them, those that most layers make first."""
    makers = [frozenset(n for n, entries in group.producers.items() if entries[c]) for c in range(group.channels)]
    order = sorted(dict.fromkeys(makers), key=len, reverse=True)
    cells = parts(group.channels, group.blocks)
    by_makers = [[[c for c in cell if makers[c] == some] for some in order] for cell in cells]
    return [[some for some in cell if some] for cell in by_makers]


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, LAYERS)]
