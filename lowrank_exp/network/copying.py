"""Copies of networks, also of such as hold what Python does not copy."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lowrank_exp.network.private import own_names

DEPTH = 5  # things inside things that are looked into


def copy_network(model: nn.Module, memo: Mapping[int, Any] | None = None) -> nn.Module:
    """A copy of `model` that shares nothing with it.

    A tensor that was computed from parameters, such as the weight that `torch.nn.utils.weight_norm` computes before
    every forward pass, is copied as its numbers, without what it was computed from.

    Args:
        model: it is not changed.
        memo: what stands in the copy for objects of `model`, by their `id`, as `copy.deepcopy` takes it.

    Raises:
        ValueError: an attribute that cannot be copied, by its name and that of its module.

    >>> layer = nn.Linear(2, 1)
    >>> layer.twice = 2 * layer.weight  # copy.deepcopy takes no tensor with a history
    >>> bool((copy_network(layer).twice == layer.twice).all())
    True
    """
    memo = dict(memo or {})
    parts = frozenset(map(id, model.modules()))
    for module in model.modules():
        for _, value in _inside(module, parts):
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception as error:  # whatever the objects that it holds raise
        raise ValueError(_culprit(model, memo) or f"the network cannot be copied: {error}") from error


def _culprit(model: nn.Module, memo: Mapping[int, Any]) -> str | None:
    """Which attribute of which module cannot be copied, and what to do; None if it cannot be told."""
    stand_ins = {id(part): part for part in model.modules()} | {id(part): part for part in model.parameters()}
    parts = frozenset(map(id, model.modules()))
    for name, module in model.named_modules():
        culprit = None
        for path, value in _inside(module, parts):
            try:
                copy.deepcopy(value, {**stand_ins, **memo})
            except Exception as error:
                culprit = path, value, error  # the last one lies deepest
            else:
                if culprit is not None and not path.startswith(culprit[0]):
                    break
        if culprit is not None:
            path, value, error = culprit
            where = f"module {name} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
            return (
                f"{where}: attribute {path!r}, a {type(value).__name__}, cannot be copied ({error}), and networks are "
                "copied here before they are changed: make it where it is used or in a property, keep it outside the "
                "network, or give the class a __deepcopy__"
            )
    return None


def _inside(thing: Any, seen: frozenset[int], path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Path and value of everything that a module holds beside the network's modules, `seen`, the outermost first."""
    for step, value in _children(thing) if depth else ():
        if id(value) not in seen:
            inner = f"{path}{step}".lstrip(".")
            yield inner, value
            yield from _inside(value, seen | {id(value)}, inner, depth - 1)


def _children(thing: Any) -> list[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        return [(f"[{key!r}]", value) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset):
        return [(f"[{place}]", value) for place, value in enumerate(thing)]
    if isinstance(thing, type | Tensor | str | bytes) or (callable(thing) and not isinstance(thing, nn.Module)):
        return []
    attributes = own_names(thing) if isinstance(thing, nn.Module) else getattr(thing, "__dict__", {})
    return [(f".{key}", value) for key, value in attributes.items()]
