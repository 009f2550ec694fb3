"""The numbers in a file of weights: of the kind that the network computes with, and finite."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.models.parts import list_names

DIVERGED = "the training that wrote the file diverged, or the file is damaged: take an earlier checkpoint"
QUANTIZED = "of a quantized network take the weights before quantization, or save (integers - zero point) * scale"
REMEDIES = {
    "not finite": DIVERGED,
    "out of range": "save the numbers in the network's range, or build the network in float32",
    "not floats": QUANTIZED,
    "complex": "save real numbers, such as tensor.real",
    "not whole": "save whole numbers under these names",
    "not dense": "save tensor.to_dense() or tensor.dequantize()",
}


def check_numbers(
    state: Mapping[str, Any], own: Mapping[str, Any], masks: Mapping[str, Tensor], path: str | os.PathLike
) -> None:
    """Raise ValueError if a tensor of `state` is none that the network whose state is `own` can compute with.

    Floats must be finite, but where those of `masks` are the same, and stay so in the network's type, where they must
    not all become zero; integers and booleans must stay the same numbers in the network's type.

    Args:
        state: tensors by name, such as a file has.
        own: the network's, by the same names.
        masks: what the network has by design that is not finite, see `not_finite`.
        path: of the file, for messages.
    """
    problems: dict[str, list[str]] = {}
    for name, numbers in own.items():
        if (
            name in state
            and isinstance(numbers, Tensor)
            and (problem := _find_problem(state[name], numbers, masks.get(name)))
        ):
            kind, words = problem
            problems.setdefault(kind, []).append(f"{name} {words}")
    if problems:
        words = list_names(line for lines in problems.values() for line in lines)
        remedies = "; ".join(REMEDIES[kind] for kind in problems)
        raise ValueError(f"{path} holds numbers that the network cannot compute with ({words}): {remedies}")


def not_finite(network: nn.Module) -> dict[str, Tensor]:
    """Copies of those tensors of a network that have an entry which is NaN or infinite, by name."""
    floats = {
        name: value
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    }
    return {name: value.clone() for name, value in floats.items() if not bool(value.isfinite().all())}


def _find_problem(tensor: Any, own: Tensor, mask: Tensor | None) -> tuple[str, str] | None:
    """What is wrong with a tensor: one of REMEDIES, and a few words."""
    kind, expected = _name(getattr(tensor, "dtype", None)), _name(own.dtype)
    if not isinstance(tensor, Tensor):
        return "not dense", f"is a {type(tensor).__name__}, not a tensor"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return "not dense", f"is {'quantized' if tensor.is_quantized else 'sparse'}"
    if tensor.is_complex() and not own.is_complex():
        return "complex", f"is {kind}, {expected} is needed"
    if own.is_floating_point() or own.is_complex():
        if not tensor.is_floating_point() and not tensor.is_complex():
            return "not floats", f"is {kind}, {expected} is needed"
        return _find_not_finite(tensor, own, mask)
    changed = (tensor.to(own.dtype).to(tensor.dtype) != tensor).sum().item()
    return ("not whole", f"is {kind}, {changed} of {tensor.numel()} are not {expected}") if changed else None


def _find_not_finite(tensor: Tensor, own: Tensor, mask: Tensor | None) -> tuple[str, str] | None:
    """Likewise, of floats for floats."""
    as_own = tensor.to(own.dtype)
    bad = ~as_own.isfinite()
    if not bad.any():
        vanished = not as_own.any() and bool((tensor.to(torch.promote_types(as_own.dtype, torch.float64)) != 0).any())
        return ("out of range", f"has entries that are all 0 in {_name(own.dtype)}") if vanished else None
    if mask is not None and mask.shape == tensor.shape:
        bad &= ~as_own.isclose(mask.cpu(), equal_nan=True)
    elif own.is_meta and not isinstance(own, nn.Parameter):
        return None  # it may be a mask, which shapes do not tell
    count = int(bad.sum())
    beyond = int((bad & tensor.isfinite()).sum())
    if beyond == count > 0:
        return "out of range", f"has {count} of {tensor.numel()} entries beyond the range of {_name(own.dtype)}"
    return ("not finite", f"has {count} of {tensor.numel()} entries NaN or infinite") if count else None


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
