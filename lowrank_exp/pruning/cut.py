"""One layer cut down to some of its channels.

Legend: G groups, O and I output and input channels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowrank_exp.edits import KeepChannels
from lowrank_exp.layers.moves_channels import MovesChannels
from lowrank_exp.network.cost import CONVOLUTIONS

Slice = Callable[[Tensor], Tensor]  # of a tensor shaped as a parameter was, to one shaped as it is


class Rows(NamedTuple):
    """Take `kept` along one axis."""

    kept: tuple[int, ...]
    axis: int = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.axis, torch.tensor(self.kept, device=tensor.device))


class Kernel(NamedTuple):
    """Take filters and their inputs of a convolution's or linear layer's weight, of each group its own.

    `first` and `second` are what is kept along the weight's first and second axis, for each group; None: all.
    """

    first: tuple[tuple[int, ...], ...] | None
    second: tuple[tuple[int, ...], ...] | None
    groups: int = 1

    def __call__(self, tensor: Tensor) -> Tensor:
        per_group = tensor.shape[0] // self.groups
        parts = []
        for g in range(self.groups):
            part = tensor[g * per_group : (g + 1) * per_group]
            for axis, kept in enumerate((self.first, self.second)):
                if kept is not None:
                    part = part.index_select(axis, torch.tensor(kept[g], device=tensor.device))
            parts.append(part)
        return parts[0] if self.groups == 1 else torch.cat(parts)


def cut_(layer: nn.Module, edit: KeepChannels) -> dict[str, Slice]:
    """Take from `layer`, in place, all channels but those of `edit`; its parameters are new ones.

    Returns:
        By the name of each parameter and buffer, what cuts any tensor of its shape in the same way.

    Raises:
        ValueError: channels that the layer does not have, no channel at all, groups that would differ in size, or a
            layer of a kind that cannot be cut.
    """
    if isinstance(layer, CONVOLUTIONS):
        slices = _cut_convolution_(layer, edit)
    elif isinstance(layer, nn.Linear):
        _check(edit, layer.out_features, layer.in_features)
        slices = _kernel(_single_group(edit.out), _single_group(edit.inputs), edit, layer)
        layer.out_features = _count_left(edit.out, layer.out_features)
        layer.in_features = _count_left(edit.inputs, layer.in_features)
    elif hasattr(layer, "running_mean") and hasattr(layer, "num_features"):
        _check(edit, layer.num_features, None)
        slices = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), Rows(edit.out))
        layer.num_features = len(edit.out)
    elif isinstance(layer, nn.PReLU):
        _check(edit, layer.num_parameters, None)
        slices = {"weight": Rows(edit.out)}
        layer.num_parameters = len(edit.out)
    elif isinstance(layer, MovesChannels):
        out, inputs = len(layer.sources()), layer.in_channels
        _check(edit, out, inputs)
        layer.keep_channels_(edit.out or range(out), edit.inputs or range(inputs))
        return {}
    else:
        raise ValueError(f"{edit.layer} is a {type(layer).__name__}, which has no channels that could be removed")
    for name, slice_ in slices.items():
        _set_(layer, name, slice_)
    return {name: slice_ for name, slice_ in slices.items() if getattr(layer, name, None) is not None}


def compose(edits: Sequence[KeepChannels]) -> KeepChannels:
    """The one edit that leaves what these, of one layer and one after the other, leave.

    Raises:
        ValueError: a later one keeps a channel that is gone.

    >>> compose([KeepChannels("a", out=(1, 3, 4)), KeepChannels("a", out=(0, 2), inputs=(0,))])
    KeepChannels(layer='a', out=(1, 4), inputs=(0,))
    """
    out, inputs = None, None
    for edit in edits:
        out, inputs = _keep_of_kept(out, edit.out, edit.layer), _keep_of_kept(inputs, edit.inputs, edit.layer)
    return KeepChannels(edits[-1].layer, out, inputs)


def _keep_of_kept(kept: tuple[int, ...] | None, further: tuple[int, ...] | None, layer: str) -> tuple[int, ...] | None:
    if kept is None or further is None:
        return kept if further is None else further
    if any(not 0 <= channel < len(kept) for channel in further):
        raise ValueError(f"{layer} has {len(kept)} channels left; it cannot keep {_list_channels(further)}")
    return tuple(kept[channel] for channel in further)


def _cut_convolution_(layer: nn.Module, edit: KeepChannels) -> dict[str, Slice]:
    O, I, G = layer.out_channels, layer.in_channels, layer.groups
    _check(edit, O, I)
    if 1 < G == I:
        return _cut_depthwise_(layer, edit)
    out, inputs = (_by_group(kept, size, G, edit) for kept, size in ((edit.out, O), (edit.inputs, I)))
    layer.out_channels, layer.in_channels = _count_left(edit.out, O), _count_left(edit.inputs, I)
    return _kernel(*((inputs, out) if layer.transposed else (out, inputs)), edit, layer)


def _cut_depthwise_(layer: nn.Module, edit: KeepChannels) -> dict[str, Slice]:
    each = layer.out_channels // layer.in_channels
    if edit.inputs is None or edit.out != tuple(each * i + k for i in edit.inputs for k in range(each)):
        raise ValueError(f"{edit.layer} is depthwise: with an input channel its {each} filters go, and no others")
    layer.groups = layer.in_channels = len(edit.inputs)
    layer.out_channels = len(edit.out)
    return _kernel(_single_group(edit.inputs if layer.transposed else edit.out), None, edit, layer)


def _kernel(first: tuple | None, second: tuple | None, edit: KeepChannels, layer: nn.Module) -> dict[str, Slice]:
    slices: dict[str, Slice] = {"weight": Kernel(first, second, len(first or second or (0,)))}
    if edit.out is not None and layer.bias is not None:
        slices["bias"] = Rows(edit.out)
    return slices


def _single_group(kept: tuple[int, ...] | None) -> tuple[tuple[int, ...]] | None:
    return None if kept is None else (kept,)


def _by_group(
    kept: tuple[int, ...] | None, size: int, groups: int, edit: KeepChannels
) -> tuple[tuple[int, ...], ...] | None:
    """What is kept of each group, counted from its first channel."""
    if kept is None:
        return None
    each = size // groups
    split = tuple(tuple(c - g * each for c in kept if c // each == g) for g in range(groups))
    if len({len(part) for part in split}) > 1:
        raise ValueError(
            f"{edit.layer} has {groups} groups, of which {', '.join(str(len(part)) for part in split)} channels would "
            "remain: keep equal numbers"
        )
    return split


def _check(edit: KeepChannels, out: int, inputs: int | None) -> None:
    for side, kept, size in (("output", edit.out, out), ("input", edit.inputs, inputs)):
        if kept is None and (inputs is not None or side == "input"):
            continue
        if not kept or size is None or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < size:
            raise ValueError(
                f"{edit.layer} has {size or 'no'} {side} channels; it cannot keep {_list_channels(kept)}: at least "
                "one, in ascending order, each once"
            )


def _list_channels(kept: Sequence[int] | None) -> str:
    return "none" if not kept else ", ".join(map(str, kept[:8])) + (" ..." if len(kept) > 8 else "")


def _count_left(kept: tuple[int, ...] | None, size: int) -> int:
    return size if kept is None else len(kept)


def _set_(layer: nn.Module, name: str, slice_: Slice) -> None:
    old = getattr(layer, name, None)
    if old is None:
        return
    new = slice_(old.detach())
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
    setattr(layer, name, new)
