"""Checkpoints: read the tensors of a file, and load them into a network that they fit."""

import os
import warnings
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.models.foreign import conversion

PREFIXES = ("module.", "network.", "model.")  # DataParallel, our LightningModule, other people's
SHOWN = 5  # names per kind of mismatch in an error message


def read_state(path: str | os.PathLike, known: Set[str] = frozenset()) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Reads a state dict, a dict that holds one under `state_dict` or `model` (a Lightning checkpoint too), and
    safetensors files (`*.safetensors`). A prefix `module.`, `network.` or `model.` that all names share is taken
    off, again and again, until a name is one of `known`. Only tensors and plain containers are unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is a compressed network of ours, runs code when it is unpickled, is damaged, or
            holds no state dict; with the line that converts it, where there is one.

    >>> import tempfile; from torch import nn
    >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
    ...     torch.save({"state_dict": {"module.bias": torch.ones(2)}}, file.name)
    ...     read_state(file.name)
    {'bias': tensor([1., 1.])}
    """
    content = file_content(path)
    if isinstance(content, Mapping) and content.get("format") == "lowrank_exp":
        raise ValueError(f"{path} is a compressed network: load it by lowrank_exp.load({str(path)!r})")
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content.get("state_dict"), content.get("model")]
    for candidate in candidates:
        if is_state(candidate):
            return without_prefixes(candidate, known)
    found = (
        f"a dict with {listed(content) or 'nothing in it'}" if isinstance(content, Mapping) else type(content).__name__
    )
    raise ValueError(
        f"{path} is not a checkpoint: it holds {found}; a state dict is needed (tensors by name), bare or "
        "under 'state_dict' or 'model'. Save one by torch.save(network.state_dict(), file)"
    )


def load_weights_(module: nn.Module, path: str | os.PathLike) -> None:
    """Load a checkpoint into `module`, in place: all weights and buffers, or none and an error.

    `path` may be the name of published weights, where the module has such (`hub`): see `weights_file`.

    Names and shapes must be the module's own, see `read_state` for the files and prefixes. The count
    `num_batches_tracked` of batch norms alone may be missing, as it is in files that PyTorch before 0.4.1
    wrote, and is then left as it is. Of a module on the meta device only names and shapes are checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none that `read_state` reads, or is of another network.
    """
    path = weights_file(module, path)
    own = module.state_dict()
    state = read_state(path, known=own.keys())
    if (published := module.__dict__.get("published")) is not None:
        state = published.translated(state, own.keys())
    missing = [name for name in own if name not in state and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(kinds.values()):
        found = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names)
        classes = None if missing or unexpected else classes_in(state, own)
        remedy = (
            "The file fits another network: set model=..., model.depth=..., model.num_classes=..."
            if classes is None
            else f"Its classifier knows {classes} classes: set model.num_classes={classes} (the data may have fewer)"
        )
        raise ValueError(f"{path} does not fit {type(module).__name__} ({found}). {remedy}")
    if not any(tensor.is_meta for tensor in own.values()):
        module.load_state_dict(own | state)


def classes_in(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    """The classes that a file's classifier knows, if it is by them alone that the file differs; else None.

    So it is where all tensors of another shape differ in their first entry alone, from the same number to the same
    number, and are those of one layer.
    """
    reshaped = [name for name in own if state[name].shape != own[name].shape]
    shapes = [(state[name].shape, own[name].shape) for name in reshaped]
    if any(len(theirs) != len(ours) or theirs[1:] != ours[1:] for theirs, ours in shapes):
        return None
    layers = {name.rpartition(".")[0] for name in reshaped}
    counts = {(theirs[0], ours[0]) for theirs, ours in shapes}
    return counts.pop()[0] if len(layers) == len(counts) == 1 else None


def weights_file(module: nn.Module, weights: str | os.PathLike) -> str | os.PathLike:
    """The file that `weights` stands for: a path, or a name under which the module's makers publish weights.

    Such a file is downloaded if it is not there yet, see `PublishedWeights.file`. Only networks made by `hub` have
    names for weights.
    """
    published = module.__dict__.get("published")
    return weights if published is None else published.file(weights)


def file_content(path: str | os.PathLike) -> Any:
    """What is in a file, read without running code; of the many errors it makes two: no file, or no checkpoint."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights at {path} (that is {path.absolute()}): set model.weights=... to a file that "
            "exists, or to null to start untrained"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint: set model.weights=... to a file")
    if path.suffix == ".safetensors":
        return safetensors_content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is a TorchScript archive: the error tells
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load meets foreign files with KeyError, EOFError, RuntimeError ...
        if (found := conversion(path)) is not None:
            what, remedy = found
            raise ValueError(f"{path} is {what}; {remedy}") from error
        raise ValueError(
            f"{path} is not a checkpoint that torch.load reads; save one by torch.save(network.state_dict(), file)"
        ) from error


def safetensors_content(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no safetensors file, or a damaged one ({error}): fetch it again, or save one by "
            "safetensors.torch.save_file(network.state_dict(), file)"
        ) from error


def is_state(content: Any) -> bool:
    """True for a mapping, not empty, of names to tensors."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def without_prefixes(state: Mapping[str, Tensor], known: Set[str] = frozenset()) -> dict[str, Tensor]:
    """Take off a prefix of PREFIXES that all names share, as long as no name is one of `known`.

    >>> without_prefixes({"network.module.fc": 1, "network.module.conv": 2})
    {'fc': 1, 'conv': 2}
    >>> without_prefixes({"model.fc": 1}, known={"model.fc"})
    {'model.fc': 1}
    """
    state = dict(state)
    while known.isdisjoint(state):
        shared = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)]
        if not shared:
            break
        state = {name.removeprefix(shared[0]): tensor for name, tensor in state.items()}
    return state


def listed(names: Any) -> str:
    """The first few names, and how many more there are.

    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
