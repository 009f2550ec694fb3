"""What a schedule sees of a network: its coupled channels, scores of its filters, and what has been silenced so far."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lowrank_exp.edits import Factorize, edits_of
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.network.cost import CONVOLUTIONS, LAYERS, network_cost, out_channels
from lowrank_exp.network.names import by_layer
from lowrank_exp.network.shapes import by_shapes, meta_copy
from lowrank_exp.pruning.counting import removed_macs
from lowrank_exp.pruning.coupling import channel_groups
from lowrank_exp.pruning.criteria import DataCriterion, Oracle, WeightCriterion, WeightedSum, filter_scores
from lowrank_exp.pruning.groups import ChannelGroup, Filters
from lowrank_exp.pruning.mask import keepable
from lowrank_exp.pruning.remove import remove_
from lowrank_exp.pruning.selection import count_share, group_scores
from lowrank_exp.pruning.times import PrunedTimes

Criterion = WeightCriterion | DataCriterion | WeightedSum | Oracle
RANKS = "ranks"  # stands for the factors of decomposed layers that put out a rank's channels


@dataclass
class View:
    """A network whose filters are pruned.

    Attributes:
        network: as it is now.
        groups: its coupled channels, those of which one producer at least is among `layers`.
        layers: whose filters are scored, in the order of the network.
        example: an image, `(1, C, ...)`.
        dense_macs: what the network cost when the training began.
        batches: gives images and labels for criteria that look at data; called with the number of the ranking, so that
            each can look at others.
        held_out: images and labels for the oracle, the same for every ranking; None: there are none.
        folder: where the oracle keeps what it has measured, in a file for every ranking; None: nowhere.
        rankings: how many times filters have been scored.
        masked: the filters that are silent now.
        first: what was silenced the first time; None: nothing yet.
        accuracies: on validation images, of every epoch that is done; empty where there are none.
        times: of what is left of it; None: they are not to be known, as on the meta device.
    """

    network: nn.Module
    groups: list[ChannelGroup]
    layers: list[str]
    example: Tensor
    dense_macs: int
    batches: Callable[[int], Iterable] | None = None
    held_out: Iterable | None = None
    folder: Path | None = None
    rankings: int = 0
    masked: Filters = field(default_factory=dict)
    first: Filters | None = None
    accuracies: list[float] = field(default_factory=list)
    times: PrunedTimes | None = None

    @classmethod
    def of(
        cls,
        network: nn.Module,
        input_shape: Sequence[int],
        layers: Sequence[str] | None = None,
        ignored: Sequence[str] = (),
        batches: Callable[[int], Iterable] | None = None,
        example: Tensor | None = None,
    ) -> "View":
        """Find the coupled channels of `network`, which may lie on the meta device.

        Args:
            network: it is not changed.
            input_shape: of one image, `(C, ...)`.
            layers: names or `re:` patterns of layers whose filters may go; `ranks`: the channels between the factors
                of decomposed layers; None: all convolutions.
            ignored: names or `re:` patterns of layers of whose filters none goes.
            batches: see the attribute.
            example: an image, `(1, C, ...)`, where the network does not take one of zeros.

        Raises:
            ValueError: a name that does not exist, or no layer of which filters can go.
        """
        example = torch.zeros(1, *input_shape) if example is None else example
        groups = channel_groups(network, example, ignored)
        chosen = _choose_layers(network, layers)
        groups = [group for group in groups if any(layer in chosen for layer in group.producers)]
        made = {layer for group in groups for layer in group.producers if layer in chosen}
        names = [name for name, _ in network.named_modules() if name in made]
        if not names:
            raise ValueError(
                f"no filter of {', '.join(sorted(chosen)) or 'this network'} can be removed: name other layers, or "
                "leave fewer out"
            )
        return cls(network, groups, names, example, _macs(network, example), batches)

    def scores(self, criterion: Criterion, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """By layer the score of every filter; the lowest go first.

        Raises:
            ValueError: the criterion looks at data, and there are none.
        """
        ranking, path = self.rankings, None
        self.rankings += 1
        names = self.layers if layers is None else layers
        if isinstance(criterion, Oracle):
            batches = self.held_out
            if self.folder is not None:
                path = self.folder / f"oracle-{ranking}-{tensors_digest(self.network)[:16]}.jsonl"
        else:
            batches = None if self.batches is None else self.batches(ranking)
        return filter_scores(self.network, names, criterion, batches, path=path)

    def of_groups(self, scores: Mapping[str, Tensor], how: str = "sum") -> dict[str, Tensor]:
        """The scores of coupled channels, by name of their group."""
        return group_scores(scores, self.groups, how)

    def filters_of(self, channels: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
        """All filters that make these channels of groups, by layer."""
        return {
            layer: tuple(sorted(f for c in channels[group.name] for f in entries[c]))
            for group in self.groups
            if group.name in channels
            for layer, entries in group.producers.items()
        }

    def without(self, channels: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
        """By group which channels stay when these go, if all of them can."""
        return {group.name: keepable(group, channels[group.name]) for group in self.groups if group.name in channels}

    def macs(self, keep: Mapping[str, Sequence[int]] | None = None) -> int:
        """MACs per image of the network, or of what `keep` would leave of it."""
        if not keep:
            return _macs(self.network, self.example)
        return removed_macs(self.network, keep, self.example, groups=self.groups)

    def macs_left(self, keep: Mapping[str, Sequence[int]] | None = None) -> float:
        """The fraction of the MACs at the beginning."""
        return self.macs(keep) / self.dense_macs

    def time_left(self, keep: Mapping[str, Sequence[int]] | None = None) -> float:
        """The fraction of the time at the beginning that the network takes, or what `keep` would leave of it: measured.

        Raises:
            ValueError: there are no times.
        """
        return self.known_times.time(self.cut(keep), self.macs_left(keep))

    def cut(self, keep: Mapping[str, Sequence[int]] | None = None) -> nn.Module:
        """The shapes of what `keep` would leave of the network."""
        shapes = meta_copy(self.network)
        if keep:
            remove_(shapes, keep, groups=self.groups)
        return shapes

    @property
    def known_times(self) -> PrunedTimes:
        """The times, where there are some."""
        if self.times is None:
            raise ValueError("a target of time needs a runtime that measures it: give the pruning its times")
        return self.times

    def shares(self, p: float) -> dict[str, tuple[int, ...]]:
        """By group which channels stay when the first floor(p C) of each go; groups that stay whole are left out."""
        keep = self.without({group.name: range(count_share(p, group.channels)) for group in self.groups})
        return {group.name: keep[group.name] for group in self.groups if len(keep[group.name]) < group.channels}

    def sizes(self, layers: Sequence[str] | None = None) -> dict[str, int]:
        """How many filters each layer has."""
        names = self.layers if layers is None else layers
        return {name: out_channels(self.network.get_submodule(name)) for name in names}


def _choose_layers(network: nn.Module, layers: Sequence[str] | None) -> set[str]:
    modules = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    if layers is None:
        return {name for name, module in modules.items() if isinstance(module, CONVOLUTIONS)}
    names = [layers] if isinstance(layers, str) else list(layers)
    chosen = set(by_layer(dict.fromkeys(one for one in names if one != RANKS), modules, "the layers to prune"))
    if RANKS in names:
        for edit in edits_of(network):
            if isinstance(edit, Factorize):
                inside = [name for name in modules if name.startswith(f"{edit.layer}.")]
                chosen.update(inside[:-1])
    return chosen


def _macs(network: nn.Module, example: Tensor) -> int:
    return by_shapes(network_cost, network, example).macs
