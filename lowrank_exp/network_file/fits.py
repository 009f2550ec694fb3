"""Whether the state in a file is that of a network after edits, told from names, shapes and types alone."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowrank_exp.edits import RECORDS, Edit, KeepChannels, placed_records, shape_of
from lowrank_exp.layers.moves_channels import moves_channels
from lowrank_exp.models.parts import list_names
from lowrank_exp.network.wrappers import full_name, join_names, plain_names, set_layer_
from lowrank_exp.network_file.state import own_entries
from lowrank_exp.surgery import replay_


def entries_after(model: nn.Module, edits: Sequence[Edit]) -> dict[str, Any]:
    """The entries that the state of `model` would have after `edits`; those of edited layers are on the meta device.

    `model` is not changed. Names, those of the edits too, are without wrappers.

    Raises:
        ValueError: an edit that fits no layer.
    """
    places = _places(model, edits)
    kept = {name: entry for name, entry in own_entries(model).items() if not _within(name, places)}
    return kept | _edited(shape_of(model), places, edits)


def find_unexplained(model: nn.Module, entries: Mapping[str, Any]) -> str | None:
    """How the layers of `model` differ from what their own edits make of the layers that were there before them.

    None where they do not. `entries` are those of the state of `model`.
    """
    records = placed_records(model)
    edits = [one.edit for one in records]
    before = {one.plain: one.record.before for one in records}
    dense = shape_of(model)
    for place in outermost(edits):
        if not place:
            dense = shape_of(before[place])
        else:
            set_layer_(dense, full_name(dense, place), shape_of(before[place]))
    places = _places(dense, edits)
    wanted = _edited(dense, places, edits)
    return find_difference({name: entry for name, entry in entries.items() if _within(name, places)}, wanted)


def find_lost_edits(model: nn.Module, edits: Iterable[Edit]) -> str | None:
    """What put other modules in the place of some that lost channels, so that nobody knows of it; None: nothing.

    Convolutions and linear layers are taken over as they are by whatever rebuilds a network; norms and the shortcuts of
    our networks are not always.
    """
    if not any(isinstance(edit, KeepChannels) for edit in edits):
        return None
    modules = dict(model.named_modules())
    synchronised = [name for name, module in modules.items() if isinstance(module, nn.SyncBatchNorm)]
    if synchronised and not any(vars(modules[name]).get(RECORDS) for name in synchronised):
        return (
            f"convert_sync_batchnorm made {list_names(synchronised)} after channels had been removed: save it before "
            "that"
        )
    for module in modules.values():
        if isinstance(module, fx.GraphModule):
            # What such a layer moves is written into the graph. Where it has tensors, their shapes tell what was cut.
            stacks = [node.meta.get("nn_module_stack", {}).values() for node in module.graph.nodes]
            tensors = tuple(name for name, _ in (*module.named_parameters(), *module.named_buffers()))
            for path, kind in (part for stack in stacks for part in stack):
                if moves_channels(kind) and not any(name.startswith(f"{path}.") for name in tensors):
                    return (
                        f"torch.fx went through a {kind.__name__} after channels had been removed: save the network it "
                        "traced"
                    )
    return None


def find_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """How the entries of a file differ from those of a network: in names, shapes and kinds of numbers; None: they fit.

    >>> from torch import zeros
    >>> find_difference({"a": zeros(2), "b": zeros(1)}, {"a": zeros(3), "c": zeros(1)})
    '1 missing: c; 1 unexpected: b; 1 of another shape: a (2,) in the file, (3,) in the network'
    """
    both = [name for name in wanted if name in stored]
    tensors = [name for name in both if isinstance(stored[name], Tensor) and isinstance(wanted[name], Tensor)]
    kinds = {
        "missing": [name for name in wanted if name not in stored],
        "unexpected": [name for name in stored if name not in wanted],
        "of another shape": [
            f"{name} {tuple(stored[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
            for name in tensors
            if stored[name].shape != wanted[name].shape
        ],
        "of another kind": [
            f"{name} {_kind(stored[name])} in the file, {_kind(wanted[name])} in the network"
            for name in both
            if _kind(stored[name]) != _kind(wanted[name])
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {list_names(names)}" for kind, names in kinds.items() if names) or None


def outermost(edits: Iterable[Edit]) -> list[str]:
    """The edited layers that are not part of another edited one, in order.

    >>> from lowrank_exp.edits import Bias
    >>> outermost([Bias("b.1"), Bias("a"), Bias("b"), Bias("a.0")])
    ['a', 'b']
    """
    names = dict.fromkeys(edit.layer for edit in edits)
    return [name for name in names if not _within(name.rpartition(".")[0], names) or not name]


def _places(model: nn.Module, edits: Iterable[Edit]) -> set[str]:
    """All names, without wrappers, of the layers in the outermost places of `edits`: a shared one has several."""
    wanted = set(outermost(edits))
    names = [(plain, id(module)) for _, plain, module in plain_names(model, remove_duplicate=False)]
    layers = {layer for plain, layer in names if plain in wanted}
    return {plain for plain, layer in names if layer in layers}


def _edited(dense: nn.Module, places: Iterable[str], edits: Sequence[Edit]) -> dict[str, Any]:
    """The entries of the state of the layers in `places` after `edits` of `dense`, in place."""
    replay_(dense, [replace(edit, layer=full_name(dense, edit.layer)) for edit in edits])
    layers = {place: dense.get_submodule(full_name(dense, place)) for place in places}
    return {
        join_names(place, name): entry for place, layer in layers.items() for name, entry in own_entries(layer).items()
    }


def _within(name: str, places: Container[str]) -> bool:
    """Whether a name is that of one of `places`, or of a part of it."""
    ends = [end for end, letter in enumerate(name) if letter == "."]
    return "" in places or any(name[:end] in places for end in (*ends, len(name)))


def _kind(entry: Any) -> str:
    if not isinstance(entry, Tensor):
        return "extra state"
    if entry.is_complex():
        return "complex numbers"
    if entry.is_floating_point():
        return "numbers with a point"
    return "truth values" if entry.dtype == torch.bool else "whole numbers"
