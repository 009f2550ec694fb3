"""Filters silenced: a network with masked filters computes what the smaller network will compute.

Masks lie on single filters of a layer: weight and bias of the filter are 0, and so are scale and shift of the batch
norm behind it, so that nothing comes out. A channel of several producers can be removed when all of them are silent.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import CONVOLUTIONS, out_channels
from lowrank_exp.network.names import by_layer
from lowrank_exp.pruning.groups import ChannelGroup


class Masks:
    """Which filters of which layers are silent, and which entries of parameters and buffers that makes.

    Args:
        model: the network. Nothing of it is changed before `apply_`.
        groups: of the network, from `channel_groups`; filters of other layers have no masks.
        filters: by layer, or `re:` pattern, the filters to silence.
        norms: whether the batch norm behind a silent filter is silenced too. Without, the shift still comes out of it,
            and the masked network is not what the removed one will be; soft filter pruning was published so.

    Attributes:
        filters: by layer the silent filters, ascending.
        entries: by name of a parameter or buffer where it is masked: a boolean tensor that broadcasts to its shape,
            as `state["momentum_buffer"].masked_fill_(masks.entries[name], 0)` needs it.

    Raises:
        ValueError: a layer that is not a producer of any group, or a filter that it does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[ChannelGroup],
        filters: Mapping[str, Sequence[int]],
        *,
        norms: bool = True,
    ) -> None:
        self.groups = list(groups)
        producers = [layer for group in self.groups for layer in group.producers]
        wanted = by_layer(filters, producers, "the filters to silence") if filters else {}
        self.filters = {layer: tuple(sorted(set(map(int, chosen)))) for layer, chosen in wanted.items()}
        self.filters = {layer: chosen for layer, chosen in self.filters.items() if chosen}
        modules = dict(model.named_modules())
        for layer, chosen in self.filters.items():
            if not 0 <= chosen[0] <= chosen[-1] < out_channels(modules[layer]):
                raise ValueError(f"{layer} has {out_channels(modules[layer])} filters, but {chosen} are to be silenced")
        self.entries: dict[str, Tensor] = {}
        for layer, chosen in self.filters.items():
            self._cover(modules[layer], layer, chosen)
        if norms:
            for norm, chosen in self._silent_norms(modules).items():
                self._cover(modules[norm], norm, chosen)

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Silence the filters in `model`, in place; to be called again after whatever has changed its parameters.

        Masked weights, biases, scales, shifts and running means become 0, running variances 1.
        """
        modules = dict(model.named_modules())
        for name, mask in self.entries.items():
            owner, _, key = name.rpartition(".")
            tensor = getattr(modules[owner], key)
            tensor.masked_fill_(mask.to(tensor.device), 1.0 if key == "running_var" else 0.0)

    def silent(self, group: ChannelGroup) -> list[int]:
        """The channels of `group` all of whose filters are silent: those that can be removed."""
        off = {layer: set(self.filters.get(layer, ())) for layer in group.producers}
        return [
            c
            for c in range(group.channels)
            if all(off[layer].issuperset(entries[c]) for layer, entries in group.producers.items())
        ]

    def removable(self) -> dict[ChannelGroup, tuple[int, ...]]:
        """By group what `remove_` keeps: all but the silent channels, if need be some of those too.

        Every producer keeps a filter at least; and before a grouped convolution as many silent channels stay in each
        group as the other groups need. Of the silent channels the first ones stay.
        """
        return {group: keepable(group, self.silent(group)) for group in self.groups}

    def _cover(self, module: nn.Module, name: str, chosen: Sequence[int]) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, key, None)
            if tensor is None:
                continue
            if key == "weight" and isinstance(module, CONVOLUTIONS) and module.transposed:
                self.entries[f"{name}.{key}"] = _of_transposed(module, chosen)
                continue
            mask = torch.zeros(tensor.shape[0], dtype=torch.bool)
            mask[list(chosen)] = True
            self.entries[f"{name}.{key}"] = mask.view(-1, *[1] * (tensor.dim() - 1))

    def _silent_norms(self, modules: Mapping[str, nn.Module]) -> dict[str, list[int]]:
        """Of each batch norm the entries that see silent filters only."""
        silent_of: dict[str, set[int]] = {}
        for group in self.groups:
            for layer, norms in group.own_norms.items():
                for norm, entries in norms.items():
                    silent_of.setdefault(norm, set()).update(e for f in self.filters.get(layer, ()) for e in entries[f])
            for norm, entries in group.norms.items():
                if hasattr(modules[norm], "running_mean"):
                    silent_of.setdefault(norm, set()).update(e for c in self.silent(group) for e in entries[c])
        return {norm: sorted(entries) for norm, entries in silent_of.items() if entries}


def mask_(
    model: nn.Module,
    groups: Iterable[ChannelGroup],
    removed: Mapping[str | ChannelGroup, Sequence[int]],
    *,
    norms: bool = True,
) -> Masks:
    """Silence channels of `model`, in place: all filters that make them, and the batch norms behind.

    Args:
        model: the network.
        groups: of the network, from `channel_groups`.
        removed: by group, or name of a group, its channels to silence.
        norms: as `Masks` has it.

    Returns:
        The masks, to apply again after each step of an optimizer. Single filters of a layer are silenced by
        `Masks(model, groups, filters).apply_(model)`.

    Raises:
        ValueError: a group or a channel that does not exist.

    >>> from lowrank_exp.pruning.coupling import channel_groups
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> masks = mask_(net, channel_groups(net, Tensor(1, 3, 8, 8)), {"0": [1]})
    >>> masks.filters, net[0].weight[1].abs().max().item(), masks.entries["0.bias"].tolist()
    ({'0': (1,)}, 0.0, [False, True, False, False])
    """
    groups = {group.name: group for group in groups}
    named = {key if isinstance(key, str) else key.name: list(map(int, chosen)) for key, chosen in removed.items()}
    filters = {}
    for name, chosen in by_layer(named, groups, "the channels to silence").items():
        group = groups[name]
        if bad := [c for c in chosen if not 0 <= c < group.channels]:
            raise ValueError(f"{name} has {group.channels} channels, numbered from 0: there is no channel {bad[0]}")
        for layer, entries in group.producers.items():
            filters[layer] = [f for c in chosen for f in entries[c]]
    masks = Masks(model, groups.values(), filters, norms=norms)
    masks.apply_(model)
    return masks


def keepable(group: ChannelGroup, unwanted: Iterable[int]) -> tuple[int, ...]:
    """The channels of `group` to keep so that as many of the `unwanted` go as can.

    Every producer keeps a filter at least; before grouped convolutions equal numbers go from each of their groups. Of
    the unwanted the first ones stay.

    >>> group = ChannelGroup("conv", 4, {}, blocks=(((0, 1), (2, 3)),))
    >>> keepable(group, [0]), keepable(group, [0, 2, 3])
    ((0, 1, 2, 3), (1, 2))
    """
    cells: dict[tuple[int, ...], list[int]] = {}
    for c in range(group.channels):
        cell = tuple(next(i for i, block in enumerate(blocks) if c in block) for blocks in group.blocks)
        cells.setdefault(cell, []).append(c)
    unwanted = set(map(int, unwanted))
    goes = [[c for c in cell if c in unwanted] for cell in cells.values()]
    count = min(len(cell) for cell in goes)
    if count == min(len(cell) for cell in cells.values()):
        count -= 1
    gone = {c for cell in goes for c in cell[len(cell) - count :]}
    while layer := group.emptied(kept := tuple(c for c in range(group.channels) if c not in gone)):
        gone.remove(next(c for c, entries in enumerate(group.producers[layer]) if entries))
    return kept if group.balanced(kept) else tuple(range(group.channels))


def _of_transposed(module: nn.Module, chosen: Sequence[int]) -> Tensor:
    """Filters of a transposed convolution lie along the second axis, group by group along the first."""
    I, G, each = module.in_channels, module.groups, module.out_channels // module.groups
    mask = torch.zeros(I, each, dtype=torch.bool)
    for f in chosen:
        mask[f // each * (I // G) : (f // each + 1) * (I // G), f % each] = True
    return mask.view(I, each, *[1] * (module.weight.dim() - 2))
