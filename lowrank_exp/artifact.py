"""The small network as a file: edits, weights, and the name and arguments of the network they belong to."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from lowrank_exp.edits import placed_records
from lowrank_exp.files.whole import open_told, write_whole
from lowrank_exp.models import build
from lowrank_exp.models.numbers import check_numbers
from lowrank_exp.models.parts import list_names
from lowrank_exp.network.cost import check_network
from lowrank_exp.network.wrappers import full_name, unwrap
from lowrank_exp.network_file.archive import archive_content
from lowrank_exp.network_file.coding import bytes_of_indices, coded
from lowrank_exp.network_file.edit_records import from_records, to_records
from lowrank_exp.network_file.fits import entries_after, find_difference, find_lost_edits, find_unexplained
from lowrank_exp.network_file.schema import FORMAT, UNCODED, VERSION, check_content
from lowrank_exp.network_file.state import NetworkState, indices_of, load_state_, network_state, own_entries
from lowrank_exp.surgery import replay_
from lowrank_exp.text.shown import shown

LARGE = 2**30  # bytes of a dense network that any file may be of
MOST_SAVED = 100  # times smaller than its dense network, where that is larger
CHANGED = "this network was changed by other means after it had been built or edited"


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write `model`, dense or compressed, to `path`: whole or not at all.

    The file holds plain values and tensors only, by the names that they have without `torch.compile`, `DataParallel`
    and other wrappers of torch. A network of our zoo is stored by its name and arguments; any other needs its
    constructor again at `load`. Nothing is written unless it can be read again. Every bit is kept, subnormal weights
    too: a job goes on from such files, and must go on alike; what leaves for use elsewhere is cleared of them by
    `lowrank_exp.export`. Indices of codebooks are packed bits, or what an entropy coder makes of them where that is
    smaller.

    Raises:
        ValueError: an entry of the state that is not a tensor of numbers, or has some that are not finite, by its name;
            a network on the meta device; layers that were changed by other means after they had been edited.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("TorchScript has no layers that a file could name: save the network that it was made from")
    state = network_state(model)
    if diverged := [
        name for name, entry in own_entries(model).items() if _is_learned(name, entry) and _diverged(entry)
    ]:
        raise ValueError(
            f"this network has numbers that are NaN or infinite in {list_names(diverged)}: its file would not be "
            "loaded. "
            "Its training diverged: save an earlier state of it"
        )
    edits = [one.edit for one in placed_records(model)]
    if lost := find_lost_edits(model, edits):
        raise ValueError(f"{CHANGED}: {lost}")
    network = unwrap(model).__dict__.get("zoo")
    if network is None:
        if fault := find_unexplained(model, state.entries):
            raise ValueError(f"{CHANGED}: {fault}. Save the network as it was before that, or a dense one (recompose_)")
    elif fault := find_difference(state.entries, entries_after(_on_meta(network), edits)):
        raise ValueError(
            f"{CHANGED} and is not {network['name']} any more: {fault}. Make it a network of your own by deleting its "
            "attribute `zoo`, and load it by load(path, model=build_dense())"
        )
    content = {
        "format": FORMAT,
        "version": UNCODED,
        "network": network,
        "edits": to_records(edits),
        "state_dict": state.entries,
        "wrappers": state.wrappers,
        "metadata": state.metadata,
    }
    entries, how = coded(state.entries, indices_of(model))
    smaller = {"version": VERSION, "state_dict": entries, "coded": how} if how else {}
    with write_whole(path) as temporary:
        with open_told(temporary) as file:
            torch.save(content | smaller, file)
        _check_written(temporary, path, content)


def load(path: str | os.PathLike, model: nn.Module | None = None) -> nn.Module:
    """The network in a file written by `save`, in evaluation mode.

    Args:
        path: the file; nothing in it is executed.
        model: the dense network as its constructor makes it, changed in place; needed where the network is not of our
            zoo.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, a network that is not ours and no `model`, or a `model` that does not fit.
    """
    if model is not None:
        check_network(model)
    content = read(path)
    if model is None:
        network = content["network"]
        if network is None:
            raise ValueError(f"{path} is not a network of our zoo: pass the dense one, load(path, model=build_dense())")
        wanted = _check_fits(_shape_in(content, path), content, path)  # before there is memory taken for its numbers
        return _fill_(build(network["name"], network["arguments"]), wanted, content, path).eval()
    return load_into_(model, path, content).eval()


def load_into_(model: nn.Module, path: str | os.PathLike, content: dict[str, Any] | None = None) -> nn.Module:
    """Replay the edits of a file on the dense `model` and load the weights, in place.

    `model` may be wrapped in other ways than the network that was saved.

    Raises:
        ValueError: a file that does not fit it; the model is then as it was before.
    """
    check_network(model)
    content = content or read(path)
    if placed_records(model):
        raise ValueError(f"{path} must be loaded into the dense network, but this one has been edited already")
    if meta := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"{path} cannot be loaded into a network on the meta device ({meta[0]}): it has no numbers")
    return _fill_(model, _check_fits(model, content, path), content, path)


def _fill_(
    dense: nn.Module, wanted: Mapping[str, Any], content: Mapping[str, Any], path: str | os.PathLike
) -> nn.Module:
    """Replay edits and load weights that fit, in place, if their numbers are such as the network can compute with."""
    masks = {name: entry for name, entry in own_entries(dense).items() if _is_mask(entry)}
    # As parameters all others must be finite, the statistics of a norm that lost channels too.
    tensors = {name: entry for name, entry in wanted.items() if isinstance(entry, Tensor)}
    learned = {name: one for name, one in tensors.items() if name not in masks and one.is_floating_point()}
    learned = {name: nn.Parameter(one.detach(), requires_grad=False) for name, one in learned.items()}
    check_numbers(content["state_dict"], tensors | learned, masks, path)
    replay_(dense, [replace(edit, layer=full_name(dense, edit.layer)) for edit in content["edits"]])
    try:
        load_state_(dense, NetworkState(content["state_dict"], content["wrappers"], content["metadata"]))
    except Exception as error:  # whatever a network's own code makes of extra state and versions
        raise ValueError(f"{path} does not fit this network: {type(error).__name__}: {error!s:.300}") from error
    return dense


def is_artifact(path: str | os.PathLike) -> bool:
    """Whether `path` is a file that `save` wrote, of whatever version."""
    try:
        content = archive_content(path, mmap=True)
    except (ValueError, OSError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a file written by `save`, looked through.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a damaged one, or one of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the network file {path} does not exist (looked for {path.absolute()})")
    return _read(path, path)


def index_bytes(model: nn.Module, path: str | os.PathLike) -> dict[str, int]:
    """What the indices of the network's codebooks take in a file written by `save`; nothing where it has no codebook.

    `indices_packed_bytes` with as many bits for each, `indices_file_bytes` as they lie there.
    """
    if not (books := indices_of(model)):
        return {}
    content = archive_content(path, mmap=True)
    return bytes_of_indices(books, content.get("coded", {}), content["state_dict"])


def _read(path: Path, name: str | os.PathLike, mmap: bool = False) -> dict[str, Any]:
    try:
        content = archive_content(path, mmap)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as a network file: {error}") from None
    return check_content(content, name, path.stat().st_size)


def _check_written(path: Path, name: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Raise ValueError unless a file that was just written gives back what was to be written."""
    stored = _read(path, name, mmap=True)
    fault = find_difference(stored["state_dict"], content["state_dict"])
    if fault or stored["edits"] != from_records(content["edits"]):
        raise ValueError(f"what was written to {name} cannot be read again: {fault or 'its edits are others'}")


def _check_fits(dense: nn.Module, content: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """The entries of the network's state after the edits of a file, if they are those of the file."""
    try:
        wanted = entries_after(dense, content["edits"])
        fault = find_difference(content["state_dict"], wanted)
    except ValueError as error:
        fault = str(error)
    if fault:
        made_by = shown(content["network"]) if content["network"] else "a network that is not of our zoo"
        raise ValueError(f"{path} does not fit this network; the file was made from {made_by}. {fault}")
    return wanted


def _is_learned(name: str, entry: Any) -> bool:
    """Whether an entry of the state comes from training, and so must be finite whatever the network is."""
    return isinstance(entry, nn.Parameter) or name.rpartition(".")[2] in ("running_mean", "running_var")


def _is_mask(entry: Any) -> bool:
    """Whether a network has infinities, or what is to be filled in later, by design."""
    if isinstance(entry, nn.Parameter) or not isinstance(entry, Tensor) or not entry.is_floating_point():
        return False
    return _diverged(entry)


def _diverged(entry: Tensor) -> bool:
    return not bool(entry.detach().isfinite().all())


def _shape_in(content: Mapping[str, Any], path: str | os.PathLike) -> nn.Module:
    """The dense network that a file names, without numbers.

    Raises:
        ValueError: there is no such network, or it is too large to be that of the file.
    """
    name, arguments = content["network"]["name"], content["network"]["arguments"]
    stored = sum(one.numel() * one.element_size() for one in content["state_dict"].values() if isinstance(one, Tensor))
    left = 10 * len(content["state_dict"]) + 1000

    def count(module: nn.Module, key: str, parameter: Tensor) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has many more layers than the file has tensors, {len(content['state_dict'])}")

    try:
        counting = register_module_parameter_registration_hook(count)
        try:
            dense = _on_meta(content["network"])
        finally:
            counting.remove()
        size = sum(one.numel() * one.element_size() for one in (*dense.parameters(), *dense.buffers()))
        if size > max(LARGE, MOST_SAVED * stored):
            raise ValueError(f"it has {size:,} bytes of numbers, and the file {stored:,}")
    except Exception as error:  # whatever a constructor and torch make of arguments of other types and sizes
        call = f"{name}({', '.join(f'{key}={shown(value)}' for key, value in arguments.items())})"
        raise ValueError(f"{path} is not of a network that can be built, {call:.300}: {error!s:.300}") from error
    return dense


def _on_meta(network: Mapping[str, Any]) -> nn.Module:
    """A network of our zoo without numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Undrawn():
        return build(network["name"], network["arguments"])


class _Undrawn(TorchFunctionMode):
    """Numbers of tensors on the meta device are not drawn: torch imports a thousand modules to find that it cannot."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
