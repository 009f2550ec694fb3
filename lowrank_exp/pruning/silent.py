"""Channels of which nothing comes out, read off the weights."""

from collections.abc import Iterable

import torch
from torch import nn

from lowrank_exp.pruning.criteria.filters import by_filter
from lowrank_exp.pruning.groups import ChannelGroup


def silent_channels(model: nn.Module, groups: Iterable[ChannelGroup]) -> dict[str, tuple[int, ...]]:
    """By group the channels that can be removed without any change of the output; groups without are left out.

    Those are channels all of whose filters are 0, with their biases, and behind which every batch norm has scale and
    shift 0: as `mask_` leaves them.

    >>> from lowrank_exp.pruning.coupling import channel_groups
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> _ = net[0].weight.data[1].zero_()
    >>> silent_channels(net, channel_groups(net, torch.zeros(1, 3, 8, 8)))
    {'0': (1,)}
    """
    modules = dict(model.named_modules())
    off: dict[str, list[bool]] = {}
    silent_of = {}
    for group in groups:
        for layer in (*group.producers, *group.norms):
            if layer not in off:
                off[layer] = _silent_entries(modules[layer])
        silent = tuple(
            c
            for c in range(group.channels)
            if all(
                off[layer][e] for layers in (group.producers, group.norms) for layer in layers for e in layers[layer][c]
            )
        )
        if silent:
            silent_of[group.name] = silent
    return silent_of


@torch.no_grad()
def _silent_entries(module: nn.Module) -> list[bool]:
    """For each filter, or entry of a batch norm, whether nothing comes out of it."""
    bias = getattr(module, "bias", None)
    if hasattr(module, "running_mean"):
        if module.weight is None:
            return [False] * module.num_features
        zero_O = module.weight == 0
    elif hasattr(module, "num_parameters") or not hasattr(module, "weight"):
        return _Always()
    else:
        zero_O = by_filter(module, module.weight).flatten(2).eq(0).all(dim=2).flatten()
    return (zero_O if bias is None else zero_O & (bias == 0)).tolist()


class _Always(list):
    """Of a layer that gives 0 for 0, such as PReLU or a shortcut that pads."""

    def __getitem__(self, index: int) -> bool:
        return True
