"""Edits as data: plain records of what was done to a network, kept by the layers that it was done to.

A layer that was replaced by several keeps its records at the first of them that is a convolution or a linear layer:
whatever is built around layers - another network that holds them too, a wrapper, a copy, a graph of `torch.fx` -
takes those over as they are.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition import Rank
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.private import forget_hooks_, own_buffers, own_modules, own_parameters, rebuild
from lowrank_exp.network.records import RECORDS
from lowrank_exp.network.wrappers import full_name, join_names, plain_names, set_layer_
from lowrank_exp.replacing import give_hooks_


@dataclass(frozen=True)
class Factorize:
    """A layer was replaced by the factors of a decomposition at a rank."""

    layer: str
    decomposition: str
    rank: Rank
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.rank, list):
            object.__setattr__(self, "rank", tuple(self.rank))


@dataclass(frozen=True)
class Bias:
    """A layer without bias got one, of zeros at first; fits to responses need it."""

    layer: str


@dataclass(frozen=True)
class ToSVD:
    """A layer was replaced by its SVD form, of a decomposition at a rank."""

    layer: str
    decomposition: str
    rank: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KeepChannels:
    """A layer kept these of its output and input channels, and lost the others; None: all of them.

    A grouped convolution lost as many of every group, a depthwise one whole groups.
    """

    layer: str
    out: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for side in ("out", "inputs"):
            if isinstance(getattr(self, side), list):
                object.__setattr__(self, side, tuple(getattr(self, side)))


Edit = Factorize | Bias | ToSVD | KeepChannels
EDITS = {kind.__name__: kind for kind in (Factorize, Bias, ToSVD, KeepChannels)}  # a file names an edit by these names

_numbers = itertools.count(1)


class EditRecord:
    """One edit as a module keeps it.

    Attributes:
        edit: without the layer's name, which depends on the network that the layer is seen in.
        below: the name that the module which keeps the record has within the edited layer; empty: it is the layer.
        before: the layer before the first edit of this place, as `shape_of` gives it.
        number: later edits have higher ones, also than those of a network that was unpickled.
    """

    def __init__(self, edit: Edit, below: str, before: nn.Module, number: int | None = None) -> None:
        global _numbers
        self.edit, self.below, self.before = replace(edit, layer=""), below, before
        forget_hooks_(before)  # a pickle could not hold all of them
        self.number = next(_numbers) if number is None else number
        if number is not None:
            _numbers = itertools.count(max(number + 1, next(_numbers)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "EditRecord":
        return self  # nothing of it ever changes

    def __reduce__(self) -> tuple[Any, ...]:
        return EditRecord, (self.edit, self.below, self.before, self.number)


class Placed(NamedTuple):
    """A record as it is seen in a network: `plain` is the layer's name without wrappers."""

    plain: str
    record: EditRecord

    @property
    def edit(self) -> Edit:
        """The edit of the layer by that name."""
        return replace(self.record.edit, layer=self.plain)


def edits_of(model: nn.Module) -> list[Edit]:
    """What was done to the layers of `model`, in order, in whatever network they were when it was done.

    >>> from lowrank_exp.surgery import factorize_
    >>> net = nn.Sequential(nn.Linear(6, 4))
    >>> _ = factorize_(nn.ModuleDict({"net": net}), {"net.0": 2})
    >>> edits_of(net)
    [Factorize(layer='0', decomposition='linear_svd', rank=2, options={})]
    """
    return [replace(one.record.edit, layer=full_name(model, one.plain)) for one in placed_records(model)]


def placed_records(model: nn.Module) -> list[Placed]:
    """The records that the modules of `model` keep, in order.

    Left out are those of a layer that `model` is itself, or that its modules are only some factors of.
    """
    placed: dict[tuple[int, int], Placed] = {}
    for _, plain, module in plain_names(model, remove_duplicate=False):
        for record in module.__dict__.get(RECORDS, ()):
            if (place := _strip_end(plain, record.below)) is not None:
                placed.setdefault((id(module), record.number), Placed(place, record))
    if any(not one.plain and isinstance(one.record.edit, Factorize | ToSVD) for one in placed.values()):
        placed = {key: one for key, one in placed.items() if one.plain}
    return sorted(placed.values(), key=lambda one: one.record.number)


def remember(layer: nn.Module, edit: Edit, before: nn.Module) -> None:
    """Add an edit to those of a layer that stays in its place; `before` is what `shape_of` made of it before."""
    kept = layer.__dict__.setdefault(RECORDS, [])
    first = next((record.before for record in kept if not record.below), before)
    kept.append(EditRecord(edit, "", first))


def replace_(
    model: nn.Module, name: str, new: nn.Module, edits: Sequence[Edit], undone: type[Edit] | None = None
) -> None:
    """Put `new` in the place of a layer, in place of the model, and remember the edits with those of before.

    Args:
        model: any network.
        name: of the layer, as `named_modules` has it.
        new: one layer, or several that do its work.
        edits: what was done to the layer, in order.
        undone: edits of this kind of the layer are forgotten. Those of its parts always are: they are gone.
    """
    old = model.get_submodule(name)
    own, outer = [], []
    for _, inner, module in plain_names(old):
        for record in module.__dict__.get(RECORDS, ()):
            if (above := _strip_end(record.below, inner)) == "":
                own.append(record)
            elif above is not None:
                outer.append((above, record))
    before = own[0].before if own else shape_of(old)
    below, keeper = next(((n, m) for n, m in new.named_modules() if isinstance(m, LAYERS)), ("", new))
    kept = [EditRecord(one.edit, join_names(above, below), one.before, one.number) for above, one in outer]
    kept += [EditRecord(one.edit, below, before, one.number) for one in own if not isinstance(one.edit, undone or ())]
    kept += [EditRecord(edit, below, before) for edit in edits]
    give_hooks_(new, old)
    set_layer_(model, name, new)
    keeper.__dict__[RECORDS] = kept


def shape_of(module: nn.Module) -> nn.Module:
    """A module like this one on the meta device, without records.

    Modules are new, and so are floating-point tensors, tied as they were; all else is that of `module` itself: it is
    quick, and nothing but modules and tensors may be changed.

    >>> shape_of(nn.Linear(6, 4)).weight.device
    device(type='meta')
    """
    return _copy_shape(module, {})


def _copy_shape(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    if id(module) in known:
        return known[id(module)]
    like = known[id(module)] = object.__new__(type(module))
    parameters = {name: _on_meta(one, known) for name, one in own_parameters(module).items()}
    buffers = {name: _on_meta(one, known) for name, one in own_buffers(module).items()}
    modules = {name: None if one is None else _copy_shape(one, known) for name, one in own_modules(module).items()}
    rebuild(module, parameters, buffers, modules, into=like)
    like.__dict__.pop(RECORDS, None)
    return like


def _on_meta(tensor: Tensor | None, known: dict[int, Any]) -> Tensor | None:
    """Without its numbers, unless they are integers, which are structure."""
    if tensor is None or not tensor.is_floating_point():
        return tensor
    if id(tensor) not in known:
        empty = torch.empty_like(tensor, device="meta")
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return known[id(tensor)]


def _strip_end(name: str, end: str) -> str | None:
    """The name without its last parts `end`; None where it does not end so."""
    if not end or name == end:
        return name if not end else ""
    return name.removesuffix(f".{end}") if name.endswith(f".{end}") else None
