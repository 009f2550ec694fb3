"""Layers that are to be replaced without an example to try it on: what can be told all the same."""

import functools
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.uses import codes_of, uses_of_children
from lowrank_exp.network.cost import CONVOLUTIONS, LAYERS
from lowrank_exp.network.modes import evaluating
from lowrank_exp.network.private import drop_forward_hooks_, forward_hooks
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.replacing.holders import find_holders
from lowrank_exp.replacing.observed import Pass, observe
from lowrank_exp.replacing.trial import IDLE, describe_holder, trial
from lowrank_exp.replacing.unsafe import lost_by_replacing, plain_layers, settings, unsafe

SIZES = (32, 64, 224, 299)  # of images; one that the network takes is enough
TYPE = {"type", "isinstance", "__class__"}  # what code names that looks at types
PASS_EXAMPLE = "pass example_input to have it tried"


def untried(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Reasons, by name, why some of `layers` must be left alone, where there is no example input for a `trial`.

    A trial on the meta device, without the network's hooks, where the network takes an input of a size that is guessed
    from what it says itself or from its first layer. Else what `unsafe` tells, layers that an attribute of a module
    holds a second time or whose settings the code of their parent's forward reads, and those that have attributes of
    their own. In both cases those whose weight, settings or type a hook reads, as far as the hooks' code says.

    Raises:
        ValueError: `model` is itself a bare layer.
    """
    reasons = unsafe(model)
    candidates = {name: layer for name, layer in plain_layers(model) if name in set(layers) - reasons.keys()}
    if not candidates:
        return reasons
    told = _try_guessed_inputs(model, candidates)
    if told is None:
        told = {name: f"{why}; {PASS_EXAMPLE}" for name, why in _by_structure(model, candidates).items()}
    for name, layer in candidates.items():
        if why := _read_by_hooks(model, name, layer):
            told.setdefault(name, f"{why}; {PASS_EXAMPLE}")
    return reasons | {name: told[name] for name in candidates if name in told}


def _by_structure(model: nn.Module, candidates: Mapping[str, nn.Module]) -> dict[str, str]:
    reasons = {name: f"it is also held by `{where}`" for name, where in find_holders(model, candidates).items()}
    for name, layer in candidates.items():
        parent, _, key = name.rpartition(".")
        kind, lost = type(model.get_submodule(parent)), lost_by_replacing(layer)
        use = uses_of_children(kind).get(key)
        own = {n for n in vars(layer) if n in lost - settings(type(layer)) and not n.startswith(("_", "lowrank_"))}
        if read := sorted(use.attributes & lost) if use else []:
            reasons.setdefault(name, f"its parent reads {', '.join(read)}")
        elif own:
            reasons.setdefault(name, f"it has attributes of its own, {', '.join(sorted(own))}")
    return reasons


def _read_by_hooks(model: nn.Module, name: str, layer: nn.Module) -> str | None:
    """That the code of a hook names what only the layer has, or asks for its type: of its own, or one that names it."""
    for module in model.modules():
        if named := _named_by_hooks(module):
            lost = sorted(lost_by_replacing(layer) & named)
            if module is layer and (lost or named & TYPE):
                return f"it has a forward hook that reads its {', '.join(lost) or 'type'}"
            if name.rpartition(".")[2] in named and lost:
                return f"a forward hook of a {type(module).__name__} reads its {', '.join(lost)}"
    return None


def _named_by_hooks(module: nn.Module) -> set[str]:
    return {name for hook in forward_hooks(module) for code in codes_of(_function(hook)) for name in code.co_names}


def _function(hook: Any) -> Any:
    """What is run when a hook is called: a partial's function, a method's, or that of an object's `__call__`."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    if not isinstance(hook, types.FunctionType | types.MethodType):
        hook = type(hook).__call__
    return getattr(hook, "__func__", hook)


def _try_guessed_inputs(model: nn.Module, candidates: Mapping[str, nn.Module]) -> dict[str, str] | None:
    """What a trial on the meta device says, but of layers not reached; None where no input can be guessed.

    A copy that calls layers of `model` itself, or computes with their weights, has them from elsewhere than its places.
    """
    try:
        network = meta_copy(model)
        for module in network.modules():
            drop_forward_hooks_(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for x in _guesses(model):
                with evaluating(network):
                    seen = observe(network, x, {id(layer): name for name, layer in candidates.items()})
                if seen.error is None:
                    reasons = {name: why for name, why in trial(network, x).items() if not why.endswith(IDLE)}
                    used = [name for name, layer in candidates.items() if _is_used(layer, seen)]
                    return reasons | {name: describe_holder(model, name) for name in used}
    except Exception:  # a network that cannot be copied, or that runs on nothing but real numbers
        return None
    return None


def _is_used(layer: nn.Module, seen: Pass) -> bool:
    return any(id(one) in seen.used for one in (layer, *layer.parameters()))


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """Inputs that the network may take, on the meta device: as it says itself, or as its first layer takes them."""
    first = next(module for module in model.modules() if isinstance(module, LAYERS))
    told = [vars(model).get("input_shape"), *_of_timm(model)]
    if isinstance(first, CONVOLUTIONS):
        told += [(first.in_channels, *[size] * len(first.kernel_size)) for size in SIZES]
    else:
        told += [(first.in_features,)]
    for shape in told:
        if shape:
            yield torch.empty((1, *shape), device="meta", dtype=first.weight.dtype)


def _of_timm(model: nn.Module) -> list[tuple[int, ...]]:
    settings = [vars(model).get(name) for name in ("pretrained_cfg", "default_cfg")]
    return [tuple(one["input_size"]) for one in settings if isinstance(one, dict) and "input_size" in one]
