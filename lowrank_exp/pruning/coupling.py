"""Coupled channels of a network: which filters, batch-norm entries and inputs have to be removed together.

A channel is a connected component of all the places that it flows through; channels of the same layers are a group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from lowrank_exp.decomposition import refusals
from lowrank_exp.network.cost import CONVOLUTIONS
from lowrank_exp.network.names import by_layer
from lowrank_exp.pruning.gradients import WITHOUT_GRADIENT
from lowrank_exp.pruning.graph import ChannelGraph, Span, channel_graph
from lowrank_exp.pruning.groups import ChannelGroup, Entries
from lowrank_exp.pruning.trial import find_unfaithful
from lowrank_exp.svd_form.layers import SVDForm


class Coupling(NamedTuple):
    """The groups whose channels can be removed, and by layer why the channels of the others cannot."""

    groups: list[ChannelGroup]
    reasons: dict[str, str]


def channel_groups(
    model: nn.Module, example_input: Tensor, ignored: Iterable[str] = (), *, close_up: bool = False
) -> list[ChannelGroup]:
    """The groups of coupled channels of `model` that can be removed, in the order of the network.

    A group that is not among them has a reason, see `couple`, which takes the same arguments.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    >>> (group,) = channel_groups(net, Tensor(1, 3, 4, 4))
    >>> group.name, group.channels, group.consumers["3"][1]
    ('0', 4, (4, 5, 6, 7))
    """
    return couple(model, example_input, ignored, close_up=close_up).groups


def couple(model: nn.Module, example_input: Tensor, ignored: Iterable[str] = (), *, close_up: bool = False) -> Coupling:
    """The channels of `model` that have to be removed together.

    Left alone, with a reason, are: channels of the network's output and input, whatever is added to those, layers that
    are refused to a decomposition too (tied, parametrized ...), SVD forms, layers that no gradient reaches (a trunk
    under `torch.no_grad`), channels that an operation mixes, moves or
    broadcasts (softmax, group and layer norm, channel shuffle), and those of a grouped convolution that reads several
    groups. Groups are then tried out: in a copy with other weights, channels are silenced and removed, and where the
    two outputs differ, as behind a sigmoid, which is not 0 at 0, or where code counts on a number of channels, the
    group is left alone.

    Args:
        model: a network that takes one tensor with channels in dimension 1. It is not changed.
        example_input: `(N, C, ...)`, one image is enough.
        ignored: names or `re:` patterns of layers whose filters have to stay.
        close_up: also give the channels before a local response normalisation. It reads neighbouring channels, so when
            one goes, others become neighbours, and the output is no longer that of the masked network.

    Raises:
        ValueError: a bare layer as model, a network that cannot be traced, or a name in `ignored` that does not exist.
    """
    graph = channel_graph(model, example_input, close_up)
    for name, reason in _fixed_layers(model, ignored, graph).items():
        # An ignored layer keeps its filters, and may lose inputs when the layer before loses filters.
        for spans in (graph.outputs,) if reason == IGNORED else (graph.outputs, graph.inputs):
            if name in spans:
                graph.fixed.append((spans[name], reason))
    groups, reasons = _Components(graph).groups(model)
    faulty = find_unfaithful(model, groups, example_input, close_up)
    reasons = dict.fromkeys(graph.without_gradient, WITHOUT_GRADIENT) | reasons
    reasons |= {layer: faulty[group.name] for group in groups if group.name in faulty for layer in group.producers}
    order = [name for name, _ in model.named_modules() if name in reasons]
    return Coupling([group for group in groups if group.name not in faulty], {name: reasons[name] for name in order})


IGNORED = "it is among the ignored layers"


def _fixed_layers(model: nn.Module, ignored: Iterable[str], graph: ChannelGraph) -> dict[str, str]:
    reasons = {name: f"{name} cannot be changed: {reason}" for name, reason in refusals(model).items()}
    for name, module in model.named_modules():
        if isinstance(module, SVDForm):
            reasons[name] = f"{name} is an SVD form: truncate it to plain layers first"
    patterns = [ignored] if isinstance(ignored, str) else ignored
    return reasons | by_layer(dict.fromkeys(patterns, IGNORED), graph.outputs, "ignored")


@dataclass
class _Components:
    """Groups as connected components of a graph of channels, in two steps.

    Links join the numbers that are one channel wherever it flows: `channel[number]`. A layer's filters then join
    channels to a family, `family[channel]`: a group is all channels that some layer puts out together, since a layer is
    cut as a whole. One channel that is fixed fixes its family, or a layer would belong to a group in part.
    """

    graph: ChannelGraph

    def groups(self, model: nn.Module) -> tuple[list[ChannelGroup], dict[str, str]]:
        graph = self.graph
        if not graph.outputs:
            return [], {}
        channel = self._channels(model)
        # Reversed, so that the first reason of a channel is the one that stays.
        reason = {int(c): why for place, why in reversed(graph.fixed) for c in channel[place.ids]}
        family = self._families(channel)
        members: dict[int, list[int]] = {}
        for place in graph.outputs.values():
            for c in dict.fromkeys(channel[place.ids].tolist()):
                known = members.setdefault(int(family[c]), [])
                known.append(c)
        members = {f: list(dict.fromkeys(channels)) for f, channels in members.items()}
        why = {f: next((reason[c] for c in channels if c in reason), None) for f, channels in members.items()}
        blocks = self._blocks(model, channel, family, members, why)
        own = self._own_norms(model)
        read = graph.inputs | graph.moved
        groups, reasons = [], {}
        for f, channels in members.items():
            # Channels of the group count from 0 in the order in which its layers put them out; others are -1.
            number = np.full(int(channel.max()) + 1, -1)
            number[channels] = np.arange(len(channels))
            layers = {n: place for n, place in graph.outputs.items() if family[channel[place.first]] == f}
            if why[f] is not None:
                reasons |= dict.fromkeys(layers, why[f])
                continue
            groups.append(
                ChannelGroup(
                    next(iter(layers)),
                    len(channels),
                    {n: _entries(number[channel[place.ids]], len(channels)) for n, place in layers.items()},
                    self._touching(graph.passing, number[channel], len(channels)),
                    self._touching(read, number[channel], len(channels)),
                    {n: own[n] for n in layers if n in own},
                    tuple(tuple(tuple(sorted(number[b].tolist())) for b in split) for split in blocks.get(f, ())),
                )
            )
        return groups, reasons

    def _channels(self, model: nn.Module) -> np.ndarray:
        """The channel that every place's entry belongs to."""
        links = [*self.graph.links]
        for name, outputs in self.graph.outputs.items():
            layer, inputs = model.get_submodule(name), self.graph.inputs[name]
            # A depthwise filter reads one channel and goes with it: they are one channel.
            if _depthwise(layer):
                links.append((np.repeat(inputs.ids, outputs.size // inputs.size), outputs.ids))
        return _connected(links, self.graph.total)

    def _families(self, channel: np.ndarray) -> np.ndarray:
        """By channel, which ones some layer puts out together."""
        links = [(channel[p.ids[:1]].repeat(p.size), channel[p.ids]) for p in self.graph.outputs.values()]
        return _connected(links, int(channel.max()) + 1)

    def _blocks(
        self,
        model: nn.Module,
        channel: np.ndarray,
        family: np.ndarray,
        members: dict[int, list[int]],
        why: dict[int, str | None],
    ) -> dict[int, list[list[np.ndarray]]]:
        """By family, the channels of each group of its grouped convolutions; `why` gets those that cannot be kept."""
        blocks: dict[int, list[list[np.ndarray]]] = {}
        for name, outputs in self.graph.outputs.items():
            layer = model.get_submodule(name)
            if not isinstance(layer, CONVOLUTIONS) or layer.groups == 1 or _depthwise(layer):
                continue
            for place in (self.graph.inputs[name], outputs):
                channels = channel[place.ids]
                # A group of a convolution must lose as many channels as the others. That can be arranged where all
                # of its channels are of one family and differ; else the family stays.
                families = set(family[channels].tolist()) & members.keys()
                if not families:
                    continue
                if len(set(family[channels].tolist())) > 1 or len(set(channels.tolist())) < place.size:
                    for f in families:
                        why[f] = why[f] or f"the grouped convolution {name} reads several groups of channels"
                    continue
                split = list(channels.reshape(layer.groups, -1))
                known = blocks.setdefault(families.pop(), [])
                if not any(np.array_equal(split, other) for other in known):
                    known.append(split)
        return blocks

    def _sole_sources(self) -> np.ndarray:
        """For every entry the filter that alone made it, -1 where there is none or several.

        Every entry points to what it is made of, filters to themselves. Following the pointers twice as far each time
        takes as many rounds as the logarithm of the network's depth.
        """
        nobody = self.graph.total  # points to itself too, so that who comes to it stays there
        source = np.full(nobody + 1, nobody)
        links = [link for link in self.graph.links if len(link[0])]
        if links:
            made_of, made = (np.concatenate(side) for side in zip(*links, strict=True))
            source[made] = made_of
            source[np.flatnonzero(np.bincount(made, minlength=nobody) > 1)] = nobody
        for place in self.graph.outputs.values():
            source[place.ids] = place.ids
        while not np.array_equal(further := source[source], source):
            source = further
        return np.where(source == nobody, -1, source)[:nobody]

    def _own_norms(self, model: nn.Module) -> dict[str, dict[str, Entries]]:
        """By layer, the batch norms that see its filters alone, and where."""
        sole = self._sole_sources()
        layer_of = np.full(self.graph.total, "", dtype=object)
        for layer, place in self.graph.outputs.items():
            layer_of[place.ids] = layer
        own: dict[str, dict[str, Entries]] = {}
        for name, norm in self.graph.passing.items():
            of = sole[norm.ids]
            if not hasattr(model.get_submodule(name), "running_mean"):
                continue
            for layer in dict.fromkeys(layer_of[of[of >= 0]]):
                place = self.graph.outputs[layer]
                mine = np.where((of >= place.first) & (of < place.first + place.size), of - place.first, -1)
                own.setdefault(layer, {})[name] = _entries(mine, place.size)
        return own

    def _touching(self, places: dict[str, Span], number: np.ndarray, channels: int) -> dict[str, Entries]:
        read = {name: number[place.ids] for name, place in places.items()}
        return {name: _entries(of, channels) for name, of in read.items() if (of >= 0).any()}


def _entries(channel_of: np.ndarray, channels: int) -> Entries:
    """For each channel the entries that belong to it."""
    entries: list[list[int]] = [[] for _ in range(channels)]
    for entry in np.flatnonzero(channel_of >= 0).tolist():
        entries[channel_of[entry]].append(entry)
    return tuple(map(tuple, entries))


def _depthwise(layer: nn.Module) -> bool:
    """Whether every group of a convolution reads one channel."""
    return isinstance(layer, CONVOLUTIONS) and 1 < layer.groups == layer.in_channels


def _connected(links: Sequence[tuple[np.ndarray, np.ndarray]], total: int) -> np.ndarray:
    """The number of each vertex's component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [np.concatenate([link[side] for link in links]) if links else np.zeros(0, int) for side in (0, 1)]
    edges = coo_array((np.ones(len(ends[0]), np.int8), tuple(ends)), shape=(total, total))
    return connected_components(edges, directed=False)[1]
