"""Coupled channels of a network of which some have been removed, known without looking for them again."""

from collections.abc import Iterable

from lowrank_exp.edits import Edit, KeepChannels
from lowrank_exp.pruning.groups import ChannelGroup, Entries

Places = dict[tuple[str, str], dict[int, int]]


def renumber(groups: Iterable[ChannelGroup], edits: Iterable[Edit]) -> list[ChannelGroup]:
    """The groups after `edits` have taken some of their channels out of the network.

    Channels keep their order and are numbered anew; edits of other kinds than `KeepChannels` are passed over.

    Args:
        groups: of the network before the edits.
        edits: as `remove_` gives them, those of several removals one after the other.

    >>> group = ChannelGroup("a", 3, {"a": ((0,), (1,), (2,))}, consumers={"b": ((0, 1), (2, 3), (4, 5))})
    >>> edits = [KeepChannels("a", out=(0, 2)), KeepChannels("b", inputs=(0, 1, 4, 5))]
    >>> (left,) = renumber([group], edits)
    >>> left.channels, left.producers, left.consumers
    (2, {'a': ((0,), (1,))}, {'b': ((0, 1), (2, 3))})
    """
    groups = list(groups)
    for edit in edits:
        if isinstance(edit, KeepChannels):
            places = {
                (edit.layer, side): {entry: i for i, entry in enumerate(kept)}
                for side, kept in (("out", edit.out), ("inputs", edit.inputs))
                if kept is not None
            }
            groups = [_renumber_group(group, places) for group in groups]
    return [_drop_gone(group) for group in groups]


def _renumber_group(group: ChannelGroup, places: Places) -> ChannelGroup:
    """With the entries of the edited layer numbered anew; a channel's entries that are gone are left out."""
    producers, norms, consumers = (
        {layer: _renumber_entries(entries, places.get((layer, side))) for layer, entries in layers.items()}
        for layers, side in ((group.producers, "out"), (group.norms, "out"), (group.consumers, "inputs"))
    )
    own = {}
    for layer, by_norm in group.own_norms.items():
        filters = places.get((layer, "out"))
        kept = range(len(next(iter(by_norm.values()), ()))) if filters is None else filters
        own[layer] = {
            norm: _renumber_entries(tuple(entries[f] for f in kept), places.get((norm, "out")))
            for norm, entries in by_norm.items()
        }
    return ChannelGroup(group.name, group.channels, producers, norms, consumers, own, group.blocks)


def _renumber_entries(entries: Entries, place: dict[int, int] | None) -> Entries:
    if place is None:
        return entries
    return tuple(tuple(place[e] for e in of_channel if e in place) for of_channel in entries)


def _drop_gone(group: ChannelGroup) -> ChannelGroup:
    """Without the channels that no filter makes any more."""
    left = [c for c in range(group.channels) if any(entries[c] for entries in group.producers.values())]
    number = {c: i for i, c in enumerate(left)}
    producers, norms, consumers = (
        {layer: tuple(entries[c] for c in left) for layer, entries in layers.items()}
        for layers in (group.producers, group.norms, group.consumers)
    )
    blocks = tuple(tuple(tuple(number[c] for c in part if c in number) for part in split) for split in group.blocks)
    return ChannelGroup(group.name, len(left), producers, norms, consumers, group.own_norms, blocks)
