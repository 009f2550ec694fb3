"""Checkpoints: read the tensors of a file, and load them into a network that they fit."""

import os
import pickle
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PREFIXES = ("module.", "network.", "model.")  # DataParallel, our LightningModule, other people's
SHOWN = 5  # names per kind of mismatch in an error message


def read_state(path: str | os.PathLike, known: Set[str] = frozenset()) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Reads a state dict, a dict that holds one under `state_dict` or `model` (a Lightning checkpoint too). A
    prefix `module.`, `network.` or `model.` that all names share is taken off, again and again, until a name
    is one of `known`. Only tensors and plain containers are unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is a compressed network of ours, runs code when it is unpickled, or holds no
            state dict.

    >>> import tempfile; from torch import nn
    >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
    ...     torch.save({"state_dict": {"module.bias": torch.ones(2)}}, file.name)
    ...     read_state(file.name)
    {'bias': tensor([1., 1.])}
    """
    content = unpickle(path)
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
        raise ValueError(
            f"{path} does not fit {type(module).__name__} ({found}). The file fits another network: set "
            "model=..., model.depth=..., model.num_classes=..."
        )
    if not any(tensor.is_meta for tensor in own.values()):
        module.load_state_dict(own | state)


def weights_file(module: nn.Module, weights: str | os.PathLike) -> str | os.PathLike:
    """The file that `weights` stands for: a path, or a name under which the module's makers publish weights.

    Such a file is downloaded if it is not there yet, see `PublishedWeights.file`. Only networks made by `hub` have
    names for weights.
    """
    published = module.__dict__.get("published")
    return weights if published is None else published.file(weights)


def unpickle(path: str | os.PathLike) -> Any:
    """`torch.load` without running code; of its many errors it makes two: no file, or no checkpoint."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"no weights at {path} (that is {Path(path).absolute()}): set model.weights=... to a file that "
            "exists, or to null to start untrained"
        )
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint: set model.weights=... to a file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load meets foreign files with KeyError, EOFError, RuntimeError ...
        refused = isinstance(error, pickle.UnpicklingError)
        if refused and (zipfile.is_zipfile(path) or "Unsupported global" in str(error)):
            raise ValueError(
                f"{path} needs full unpickling, which can run any code and is never done here: it holds more "
                "than tensors in plain containers. Where you trust it, convert it once, with net the network "
                "in it: net = torch.load(file, weights_only=False); torch.save(net.state_dict(), new_file)"
            ) from error
        raise ValueError(
            f"{path} is not a checkpoint that torch.load reads; save one by torch.save(network.state_dict(), file)"
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
