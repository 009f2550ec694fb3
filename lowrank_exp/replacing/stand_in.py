"""Stands in for a layer in a trial, and tells who looked at it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank_exp.network.private import own_parameters, wrap_forward_hooks_
from lowrank_exp.replacing.hooks import give_hooks_
from lowrank_exp.replacing.observed import leaves, versions
from lowrank_exp.replacing.unsafe import lost_by_replacing, settings


@dataclass
class Seen:
    """What was seen of a layer's parent and hooks in a trial."""

    layer: nn.Module
    lost: frozenset[str]
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    arguments: set[str] = field(default_factory=set)  # beside its input
    hooks: dict[str, str] = field(default_factory=dict)  # what they do that forbids to move them
    in_hook: str | None = None

    def fault(self) -> str | None:
        """Why the layer must be left alone; None where nothing was seen that forbids to replace it."""
        if self.arguments:
            return f"it is called with {_list_names(self.arguments)}"
        if self.hooks:
            return "; ".join(f"it has a {hook} that {does}" for hook, does in self.hooks.items())
        if self.read:
            return f"its parent reads {_list_names(self.read)}"
        return f"its parent sets {_list_names(self.written)}" if self.written else None


class StandIn(nn.Sequential):
    """A fresh layer with the numbers of `layer` and one that is not called, inside an `nn.Sequential`, as factors are.

    Who counts or goes through layers or parameters finds others than before; the parameters of `layer` itself are used
    by nobody but those who reach it by another way. What is asked of it that only the layer has is answered by the
    layer, and written down in `seen`; so is a call with more than an input, and what the layer's hooks do.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(_idle(layer), make_fresh(layer))
        self.training = layer.training
        give_hooks_(self, layer)
        wrap_forward_hooks_(self, self._watch)
        self.__dict__["_seen"] = Seen(layer, lost_by_replacing(layer))

    def __getattr__(self, name: str) -> Any:
        seen = self.__dict__.get("_seen")
        if seen is None or name not in seen.lost:
            return super().__getattr__(name)
        if seen.in_hook:
            seen.hooks[seen.in_hook] = f"reads its {name}"
        else:
            seen.read.add(name)
        return getattr(seen.layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        seen = self.__dict__.get("_seen")
        if seen is not None and name in seen.lost:
            if seen.in_hook:
                seen.hooks[seen.in_hook] = f"sets its {name}"
            else:
                seen.written.add(name)
        super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _, inner = self
        if len(args) + len(kwargs) != 1 or kwargs.keys() - {"input"}:
            names = list(inspect.signature(inner.forward).parameters)
            self._seen.arguments |= {*names[1 : len(args)], *kwargs} - {"input"}
        return inner(*args, **kwargs)

    def _watch(self, hook: Callable, what: str) -> Callable:
        def watched(module: nn.Module, *args: Any) -> Any:
            before, seen = versions(args), self._seen
            seen.in_hook = what
            try:
                result = hook(module, *args)
            finally:
                seen.in_hook = None
            received = {id(leaf) for leaf in leaves(args)}
            if versions(args) != before or any(id(leaf) not in received for leaf in leaves(result)):
                seen.hooks.setdefault(what, "changes what it is given")
            return result

        return watched


def make_fresh(layer: nn.Module) -> nn.Module:
    """A layer like `layer` with parameters of the same numbers, and without anything that was hung on it."""
    new = type(layer).__new__(type(layer))
    nn.Module.__init__(new)
    new.__dict__.update({name: vars(layer)[name] for name in settings(type(layer)) if name in vars(layer)})
    for name, one in own_parameters(layer).items():
        new.register_parameter(name, None if one is None else _alias(one))
    return new.train(layer.training)


def _idle(layer: nn.Module) -> nn.Module:
    """A layer of the same type whose weight is one number."""
    new = make_fresh(layer)
    new.weight, new.bias = nn.Parameter(layer.weight.new_ones(1), requires_grad=False), None
    return new


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter of the same numbers."""
    return nn.Parameter(parameter.detach(), parameter.requires_grad and not parameter.is_inference())


def _list_names(names: set[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: (name != "weight", name)))
