"""The numbers in a file of weights: of the kind that the network computes with, and finite."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.models.parts import listed

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
    found: dict[str, list[str]] = {}
    for name, wanted in own.items():
        if name in state and isinstance(wanted, Tensor) and (problem := _problem(state[name], wanted, masks.get(name))):
            kind, said = problem
            found.setdefault(kind, []).append(f"{name} {said}")
    if found:
        said = listed(line for lines in found.values() for line in lines)
        remedies = "; ".join(REMEDIES[kind] for kind in found)
        raise ValueError(f"{path} holds numbers that the network cannot compute with ({said}): {remedies}")


def not_finite(network: nn.Module) -> dict[str, Tensor]:
    """Copies of those tensors of a network that have an entry which is NaN or infinite, by name."""
    floats = {
        name: value
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    }
    return {name: value.clone() for name, value in floats.items() if not bool(value.isfinite().all())}


def _problem(given: Any, wanted: Tensor, mask: Tensor | None) -> tuple[str, str] | None:
    """What is wrong with a tensor: one of REMEDIES, and a few words."""
    kind, expected = _name(getattr(given, "dtype", None)), _name(wanted.dtype)
    if not isinstance(given, Tensor):
        return "not dense", f"is a {type(given).__name__}, not a tensor"
    if given.layout != torch.strided or given.is_quantized:
        return "not dense", f"is {'quantized' if given.is_quantized else 'sparse'}"
    if given.is_complex() and not wanted.is_complex():
        return "complex", f"is {kind}, {expected} is needed"
    if wanted.is_floating_point() or wanted.is_complex():
        if not given.is_floating_point() and not given.is_complex():
            return "not floats", f"is {kind}, {expected} is needed"
        return _not_finite(given, wanted, mask)
    changed = (given.to(wanted.dtype).to(given.dtype) != given).sum().item()
    return ("not whole", f"is {kind}, {changed} of {given.numel()} are not {expected}") if changed else None


def _not_finite(given: Tensor, wanted: Tensor, mask: Tensor | None) -> tuple[str, str] | None:
    """Likewise, of floats for floats."""
    as_own = given.to(wanted.dtype)
    bad = ~as_own.isfinite()
    if not bad.any():
        vanished = not as_own.any() and bool((given.to(torch.promote_types(as_own.dtype, torch.float64)) != 0).any())
        return ("out of range", f"has entries that are all 0 in {_name(wanted.dtype)}") if vanished else None
    if mask is not None and mask.shape == given.shape:
        bad &= ~as_own.isclose(mask.cpu(), equal_nan=True)
    elif wanted.is_meta and not isinstance(wanted, nn.Parameter):
        return None  # it may be a mask, which shapes do not tell
    count = int(bad.sum())
    beyond = int((bad & given.isfinite()).sum())
    if beyond == count > 0:
        return "out of range", f"has {count} of {given.numel()} entries beyond the range of {_name(wanted.dtype)}"
    return ("not finite", f"has {count} of {given.numel()} entries NaN or infinite") if count else None


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
