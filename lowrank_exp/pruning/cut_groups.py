"""The channels of groups cut out of a network: every layer is sliced once, to what is kept of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from lowrank_exp.edits import KeepChannels, remember, shape_of
from lowrank_exp.layers.moves_channels import NOTHING, MovesChannels
from lowrank_exp.pruning.cut import Slice, cut_
from lowrank_exp.pruning.groups import ChannelGroup


class Removal(NamedTuple):
    """What was done: one edit for each changed layer, and how each parameter and buffer was cut.

    `slices["conv1.weight"](buffer)` cuts a momentum buffer, say, as the parameter was cut.
    """

    edits: list[KeepChannels]
    slices: dict[str, Slice]


def cut_groups_(model: nn.Module, keep: Mapping[ChannelGroup, Sequence[int]]) -> Removal:
    """Cut all channels of the groups but those kept out of `model`, in place; other groups stay whole.

    Raises:
        ValueError: as `remove_` does. The model is then as it was before.
    """
    wanted = {group: tuple(sorted(map(int, kept))) for group, kept in keep.items()}
    for group, kept in wanted.items():
        _check(group, kept)
    edits = keep_edits(model, wanted)
    modules = dict(model.named_modules())
    slices = {}
    for edit in edits:
        layer = modules[edit.layer]
        before = shape_of(layer)
        slices |= {f"{edit.layer}.{name}": slice_ for name, slice_ in cut_(layer, edit).items()}
        remember(layer, edit, before)
    return Removal(edits, slices)


def keep_edits(model: nn.Module, keep: Mapping[ChannelGroup, Sequence[int]]) -> list[KeepChannels]:
    """The edits that leave of each group the channels of `keep`, one for each layer that changes, in network order.

    Raises:
        ValueError: the groups are those of another network.
    """
    gone: dict[tuple[str, str], set[int]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for group, kept in keep.items():
        removed = sorted(set(range(group.channels)).difference(kept))
        for side, layers in (("out", group.producers), ("out", group.norms), ("inputs", group.consumers)):
            for layer, entries in layers.items():
                place = (layer, side)
                sizes[place] = max(sizes.get(place, 0), *(max(e, default=-1) + 1 for e in entries))
                gone.setdefault(place, set()).update(e for c in removed for e in entries[c])
    modules = dict(model.named_modules())
    if missing := [layer for layer, _ in sizes if layer not in modules]:
        raise ValueError(f"the group's layer {missing[0]!r} does not exist in this network: find its groups anew")
    edits = []
    for name, layer in modules.items():
        sides = {side: removed for (other, side), removed in gone.items() if other == name and removed}
        if not sides:
            continue
        kept_of = {}
        for side, removed in sides.items():
            size = channels_of(layer, side) or sizes[name, side]
            if sizes[name, side] > size:
                raise ValueError(f"{name} has {size} channels, fewer than the group says: find the groups anew")
            kept_of[side] = tuple(c for c in range(size) if c not in removed)
        if isinstance(layer, MovesChannels):
            kept_of = {side: kept_of.get(side, tuple(range(channels_of(layer, side)))) for side in ("out", "inputs")}
            sources = layer.sources()
            if not {sources[channel] for channel in kept_of["out"]} <= {NOTHING, *kept_of["inputs"]}:
                raise ValueError(f"{name} takes channels from others than the groups say: find the groups anew")
        edits.append(KeepChannels(name, **kept_of))
    return edits


def channels_of(layer: nn.Module, side: str) -> int | None:
    """How many output or input channels a layer has; None where it does not say."""
    if isinstance(layer, MovesChannels):
        return len(layer.sources()) if side == "out" else layer.in_channels
    names = {"out": ("out_channels", "out_features", "num_features", "num_parameters"), "inputs": ("in_channels",)}
    names["inputs"] += ("in_features",)
    return next((getattr(layer, name) for name in names[side] if hasattr(layer, name)), None)


def _check(group: ChannelGroup, kept: tuple[int, ...]) -> None:
    if not kept:
        raise ValueError(f"{group.name} would lose all of its {group.channels} channels: at least one must remain")
    if len(set(kept)) < len(kept) or not 0 <= kept[0] <= kept[-1] < group.channels:
        raise ValueError(
            f"{group.name} has {group.channels} channels, numbered from 0, but those to keep reach from {kept[0]} to "
            f"{kept[-1]}, {len(kept) - len(set(kept))} of them twice"
        )
    if layer := group.emptied(kept):
        raise ValueError(f"{layer} would lose all of its filters in the group {group.name}: at least one must remain")
    if not group.balanced(kept):
        left = [[len(set(block) & set(kept)) for block in blocks] for blocks in group.blocks]
        raise ValueError(
            f"{group.name} goes through grouped convolutions, of whose groups {left} channels would remain: keep equal "
            "numbers, as pruning.keepable does"
        )
