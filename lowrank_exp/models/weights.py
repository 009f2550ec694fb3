"""Checkpoints: read the tensors of a file, and load them into a network that they fit."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.files.weights_path import check_there
from lowrank_exp.models.foreign import explain_conversion
from lowrank_exp.models.numbers import check_numbers, not_finite
from lowrank_exp.models.parts import CheckpointPart, find_best_parts, list_names, mappings, shape_of, unwrapped
from lowrank_exp.network.private import module_versions, set_module_versions_

PREFIXES = ("module.", "network.", "model.")  # DataParallel, our LightningModule, other people's
COUNT = "num_batches_tracked"  # of batch norms: so many batches their statistics are of


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Reads a state dict, a dict that holds one under `state_dict`, `model` or another usual name, see
    `lowrank_exp.models.parts` (a Lightning checkpoint too), and safetensors files (`*.safetensors`). What
    `torch.compile` puts into names is taken out, and a prefix `module.`, `network.` or `model.` that all names share
    is taken off, again and again. Only tensors and plain containers are unpickled.

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
    content = checkpoint(path)
    parts = [CheckpointPart(keys, "", state) for keys, state in mappings(content) if is_state(state)]
    known = sorted((part for part in parts if part.known), key=lambda part: part.order)
    if not known:
        raise ValueError(describe_content(content, path))
    return strip_prefixes(known[0].state)


def load_weights_(module: nn.Module, path: str | os.PathLike) -> str:
    """Load a checkpoint into `module`, in place: all weights and buffers, or none and an error.

    `path` may be the name of published weights, where the module has such (`hub`): see `weights_file`.

    Names and shapes must be the module's own. They may stand under keys (`state_dict`, `model`, `ema` ...), behind a
    prefix and beside something else, such as a criterion: then that part is taken which has them all. Where several
    have, what was trained comes before running averages of it. The count `num_batches_tracked` of batch norms alone may
    be missing, as it is in files that PyTorch before 0.4.1 wrote, and is then left as it is. Of a module on the meta
    device only names, shapes and numbers are checked.

    Returns:
        One line that says which part of the file was taken, and what was left out; empty: all of it, as it was.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none that `read_state` reads, is of another network, has several parts that fit of
            which none comes first, or numbers that are not finite or of another kind (integers for floats).
    """
    path = weights_file(module, path)
    own = module.state_dict(keep_vars=True)
    content = checkpoint(path)
    parts = find_best_parts(content, own)
    if not parts:
        raise ValueError(describe_content(content, path))
    part, *others = parts
    state = part.state
    if (published := module.__dict__.get("published")) is not None:
        state = published.translate(state, own.keys())
    state = {name: value for name, value in state.items() if not _is_uncountable(name, value)}
    missing = [name for name in own if name not in state and not name.endswith(COUNT)]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {_describe_form(state[name])} in the file, {_describe_form(own[name])} in the network"
        for name in own
        if name in state and shape_of(state[name]) != shape_of(own[name])
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(kinds.values()):
        differences = "; ".join(f"{len(names)} {kind}: {list_names(names)}" for kind, names in kinds.items() if names)
        classes = None if missing or unexpected else count_classes_in(state, own)
        remedy = (
            "The file fits another network: set model=..., model.depth=..., model.num_classes=..."
            if classes is None
            else f"Its classifier knows {classes} classes: set model.num_classes={classes} (the data may have fewer)"
        )
        raise ValueError(f"{path} does not fit {type(module).__name__} ({differences}). {remedy}")
    if others and part.order == others[0].order:
        places = list_names(alternative.place for alternative in parts)
        raise ValueError(
            f"{path} has several parts that fit ({places}): save the one you mean: {part.line_to_save(path)}"
        )
    in_file = set(map(id, part.state.values()))  # a classifier that is still to be made is not
    taken = {name: value for name, value in state.items() if id(value) in in_file}
    check_numbers(taken, own, not_finite(module), path)
    if not any(isinstance(value, Tensor) and value.is_meta for value in own.values()):
        whole = OrderedDict(own | state)
        set_module_versions_(whole, module_versions(own) | module_versions(part.state))
        module.load_state_dict(whole)
    return part.describe(others, path)


def _describe_form(value: Any) -> tuple[int, ...] | str:
    return f"a {type(value).__name__}" if (shape := shape_of(value)) is None else shape


def _is_uncountable(name: str, value: Any) -> bool:
    """Whether a count of batches is not a number: in half precision it ends at 65504, and is left as it is then."""
    return name.endswith(COUNT) and isinstance(value, Tensor) and not bool(value.isfinite().all())


def checkpoint(path: str | os.PathLike) -> Any:
    """What is in a file, unless it is a compressed network of ours; see `file_content`."""
    content = file_content(path)
    if isinstance(content, Mapping) and content.get("format") == "lowrank_exp":
        raise ValueError(f"{path} is a compressed network: load it by lowrank_exp.load({str(path)!r})")
    return content


def describe_content(content: Any, path: str | os.PathLike) -> str:
    """What is said of a file without a state dict."""
    kind = (
        f"a dict with {list_names(content) or 'nothing in it'}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    return (
        f"{path} is not a checkpoint: it holds {kind}; a state dict is needed (tensors by name), bare or "
        "under 'state_dict' or 'model'. Save one by torch.save(network.state_dict(), file)"
    )


def count_classes_in(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    """The classes that a file's classifier knows, if it is by them alone that the file differs; else None.

    So it is where all tensors of another shape differ in their first entry alone, from the same number to the same
    number, and are those of one layer.
    """
    reshaped = [name for name in own if name in state and shape_of(state[name]) != shape_of(own[name])]
    shapes = [(shape_of(state[name]) or (), shape_of(own[name]) or ()) for name in reshaped]
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
    check_there(path)
    if path.suffix == ".safetensors":
        return safetensors_content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is a TorchScript archive: the error tells
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load meets foreign files with KeyError, EOFError, RuntimeError ...
        if (foreign := explain_conversion(path)) is not None:
            what, remedy = foreign
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
            f"{path} is not a safetensors file, or a damaged one ({error}): fetch it again, or save one by "
            "safetensors.torch.save_file(network.state_dict(), file)"
        ) from error


def is_state(content: Any) -> bool:
    """True for a mapping, not empty, of names to tensors."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take `_orig_mod.` out of names, and off a prefix of PREFIXES that all share, as long as there is one.

    >>> strip_prefixes({"network.module.fc": 1, "network.module.conv": 2})
    {'fc': 1, 'conv': 2}
    """
    state = {unwrapped(name): tensor for name, tensor in state.items()}
    while shared := [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)]:
        state = {name.removeprefix(shared[0]): tensor for name, tensor in state.items()}
    return state
