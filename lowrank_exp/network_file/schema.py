"""What a network file must look like, told before anything is built of it."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowrank_exp.checks import whole
from lowrank_exp.edits import KeepChannels
from lowrank_exp.network_file.coding import decoded
from lowrank_exp.network_file.edit_records import from_records
from lowrank_exp.network_file.state import EXTRA
from lowrank_exp.text.shown import shown

FORMAT = "lowrank_exp"
VERSION = 3  # version 1 had neither wrappers nor metadata; 2 has no coded entries, and what needs none is still of it
UNCODED = 2
FIELDS = {
    1: ("format", "version", "network", "edits", "state_dict"),
    2: ("format", "version", "network", "edits", "state_dict", "wrappers", "metadata"),
    3: ("format", "version", "network", "edits", "state_dict", "wrappers", "metadata", "coded"),
}
_PLAIN = (type(None), bool, int, float, str, bytes)
DEEPEST = 60  # lists within lists
SMALL = 2**20  # bytes of a tensor that may be a view which repeats its numbers


def check_content(content: Any, path: str | os.PathLike, size: int) -> dict[str, Any]:
    """The content of a network file, edits as such and no coded entries, with empty fields where its version had none.

    Args:
        content: what `archive_content` gives.
        path: of the file, for messages.
        size: of the file in bytes.

    Raises:
        ValueError: it is not the content of such a file, has a newer version, or other fields, types or tensors than
            `save` writes.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by lowrank_exp.save")
    version: Any = content.get("version")
    wrong = f"{path} has version {shown(version)}, but it must be a whole number, 1 to {VERSION}"
    whole("version", version, message=wrong)
    if version > VERSION:
        raise ValueError(f"{path} has version {shown(version)}; this lowrank_exp reads up to {VERSION}: upgrade it")
    try:
        _check_fields(content, FIELDS[version])
        walk = _Walk(size)
        for field, value in content.items():
            walk.over(value, field)
        _check_network(content["network"])
        _check_state(content["state_dict"], "state_dict")
        _check_state(content.get("wrappers", {}), "wrappers")
        _check_metadata(content.get("metadata", {}))
        edits = from_records(content["edits"])
        changed = [edit for edit in edits if not isinstance(edit, KeepChannels)]
        if len(changed) > len(content["state_dict"]):
            raise ValueError(f"it has {len(changed)} edits of layers for {len(content['state_dict'])} tensors")
        state = decoded(content["state_dict"], content.get("coded", {}), size)
    except ValueError as error:
        raise ValueError(f"{path} is not as lowrank_exp.save writes it: {error}") from None
    plain = {field: value for field, value in content.items() if field != "coded"}
    return {"wrappers": {}, "metadata": {}, **plain, "edits": edits, "state_dict": state}


class _Walk:
    """Goes through values, of which there can be at most as many as the file has bytes.

    In a file one list may stand at many places, at no cost; lists of lists of such would be without end.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    def over(self, value: Any, place: str, depth: int = 0) -> None:
        """Raise ValueError where there is something else than plain values and tensors, too much or too deep."""
        if type(value) in _PLAIN or isinstance(value, Tensor):
            return
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        if not isinstance(inner, list | tuple):
            raise ValueError(f"{place} holds {shown(value)}, which is neither a plain value nor a tensor")
        self.left -= len(inner)
        if self.left < 0 or depth > DEEPEST:
            raise ValueError("it holds more values than it has bytes, or lists within lists without end")
        for one in inner:
            if type(one) not in _PLAIN:
                self.over(one, place, depth + 1)


def _check_fields(content: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    missing, unknown = [one for one in fields if one not in content], [one for one in content if one not in fields]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if unknown:
        raise ValueError(f"it has the field {shown(unknown[0])}, which version {content['version']} does not have")


def _check_network(network: Any) -> None:
    if network is None:
        return
    if not isinstance(network, dict) or network.keys() != {"name", "arguments"}:
        raise ValueError(f"its network must be None, or a mapping with name and arguments, got {shown(network)}")
    if not isinstance(network["name"], str) or not isinstance(network["arguments"], dict):
        raise ValueError(f"its network must have a name, and a mapping of arguments, got {shown(network)}")
    if not all(isinstance(name, str) for name in network["arguments"]):
        raise ValueError(f"the arguments of its network must have names, got {shown(network['arguments'])}")


def _check_state(state: Any, field: str) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"its {field} must be a mapping of names to tensors, got {shown(state)}")
    for name, entry in state.items():
        if not isinstance(name, str):
            raise ValueError(f"its {field} has an entry called {shown(name)}, which is not a name")
        if isinstance(entry, Tensor):
            _check_tensor(name, entry)
        elif name.rpartition(".")[2] != EXTRA:
            raise ValueError(f"{shown(name)} must be a tensor, got {shown(entry)}")


def _check_tensor(name: str, tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{shown(name)} must be a plain tensor of numbers")
    if tensor.is_meta or tensor.numel() * tensor.element_size() > max(SMALL, tensor.untyped_storage().nbytes()):
        raise ValueError(f"{shown(name)} of the shape {tuple(tensor.shape)} has fewer numbers in the file than that")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(one, dict) for one in metadata.values()):
        raise ValueError(f"its metadata must be a mapping of names to mappings, got {shown(metadata)}")
    if nameless := [name for name in metadata if not isinstance(name, str)]:
        raise ValueError(f"its metadata are of a module called {shown(nameless[0])}, which is not a name")
