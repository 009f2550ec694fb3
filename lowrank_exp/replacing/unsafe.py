"""What forbids to replace a layer and can be told by looking at it."""

from collections.abc import Iterator, Mapping
from functools import cache

from torch import nn

from lowrank_exp.decomposition import refusals
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.private import has_backward_hooks, has_gradient_hooks, has_state_hooks, own_names

BACKWARD = "it has a backward hook, which would see other gradients"
NAMES = "it has a hook on its state dict, whose names would be others"
NOTE = "lowrank_refusal"  # the attribute of a layer that says what another trial has found


def unsafe(model: nn.Module) -> dict[str, str]:
    """Reasons, by layer name, why layers of `model` must not be replaced, whatever the network does with them.

    Those of `refusals`, a method replaced on the layer itself (its `forward`, mostly), and hooks that cannot move to
    what takes its place: on gradients and on the state dict. And those that `note_` has left.

    Raises:
        ValueError: `model` is itself a bare layer.
    """
    refused = refusals(model)
    own = {name: reason for name, layer in plain_layers(model) if (reason := _own(layer)) is not None}
    refused |= {name: vars(layer)[NOTE] for name, layer in plain_layers(model) if NOTE in vars(layer)}
    return {name: reasons[name] for reasons in [own | refused] for name, _ in model.named_modules() if name in reasons}


def note_(model: nn.Module, reasons: Mapping[str, str]) -> None:
    """Let layers of `model` be refused for what a trial of another network of its shapes has found."""
    for name, layer in plain_layers(model):
        if name in reasons:
            vars(layer)[NOTE] = reasons[name]


def plain_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions and linear layers of torch's own types, with their names."""
    return ((name, module) for name, module in model.named_modules() if type(module) in LAYERS)


def lost_by_replacing(layer: nn.Module) -> frozenset[str]:
    """Attributes that `layer` has and an `nn.Sequential` has not: parameters, settings, and what was hung on it."""
    return _of_type(type(layer)) | {name for name in own_names(layer) if not hasattr(_BARE, name)}


@cache
def settings(kind: type[nn.Module]) -> frozenset[str]:
    """The attributes that a layer of a type has from its constructor: sizes, stride and the like."""
    sizes = (1, 1) if kind is nn.Linear else (1, 1, 1)
    return frozenset(vars(kind(*sizes, device="meta"))) - frozenset(vars(_BARE))


@cache
def _of_type(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if not hasattr(_BARE, name)) - {"__constants__"}


def _own(layer: nn.Module) -> str | None:
    if replaced := [name for name in vars(layer) if callable(getattr(type(layer), name, None))]:
        return f"its {' and '.join(replaced)} was replaced"
    if has_backward_hooks(layer):
        return BACKWARD
    if has_state_hooks(layer):
        return NAMES
    for name, parameter in layer.named_parameters(recurse=False):
        if has_gradient_hooks(parameter):
            return f"its {name} has a hook on its gradient"
    return None


_BARE = nn.Sequential()
