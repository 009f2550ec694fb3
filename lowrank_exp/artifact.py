"""The small network as a file: edits, weights, and the name and arguments of the network they belong to."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank_exp.decomposition.codebook import stored_state
from lowrank_exp.files import written_whole
from lowrank_exp.models import build
from lowrank_exp.surgery import edits_of, from_records, replay_, to_records

FORMAT = "lowrank_exp"
VERSION = 1


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write `model`, dense or compressed, to `path`: whole or not at all.

    The file holds plain values and tensors only. A network of our zoo is stored by its name and arguments; any other
    needs its constructor again at `load`.

    Raises:
        ValueError: a part of `model` was edited on its own, so the file could not say which layers to replace.
    """
    if parts := [name for name, module in model.named_modules() if name and edits_of(module)]:
        raise ValueError(
            f"the part {parts[0]!r} of this network was edited on its own: save that part, or edit the whole"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "network": model.__dict__.get("zoo"),
        "edits": to_records(edits_of(model)),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in stored_state(model).items()},
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)


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
    content = read(path)
    if model is None:
        if content["network"] is None:
            raise ValueError(f"{path} is no network of our zoo: pass the dense one, load(path, model=build_dense())")
        model = build(content["network"]["name"], content["network"]["arguments"])
    return load_into_(model, path, content).eval()


def load_into_(model: nn.Module, path: str | os.PathLike, content: dict[str, Any] | None = None) -> nn.Module:
    """Replay the edits of a file on the dense `model` and load the weights, in place."""
    content = content or read(path)
    if edits_of(model):
        raise ValueError(f"{path} must be loaded into the dense network, but this one has been edited already")
    try:
        replay_(model, from_records(content["edits"]))
        model.load_state_dict(content["state_dict"])
    except (ValueError, RuntimeError) as error:
        made_by = content["network"] or "a network that is not of our zoo"
        raise ValueError(f"{path} does not fit this network; the file was made from {made_by}. {error}") from error
    return model


def is_artifact(path: str | os.PathLike) -> bool:
    """Whether `path` is a file that `save` wrote."""
    try:
        read(path)
    except (ValueError, OSError):
        return False
    return True


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a file written by `save`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the network file {path} does not exist (looked for {path.absolute()})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise ValueError(f"{path} cannot be read as a network file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by lowrank_exp.save")
    if content["version"] > VERSION:
        raise ValueError(f"{path} has version {content['version']}; this lowrank_exp reads up to {VERSION}: upgrade it")
    return content
