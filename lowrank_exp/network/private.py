"""What torch and torch-pruning keep to themselves and is needed here: each of their private names stands in this file.

A new version of theirs may rename any of them: then the test of that accessor fails, and nothing else has to change.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# --- What a module consists of

_REGISTERED = ("_parameters", "_buffers", "_modules")
_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_HOOKS_OF_A_PARAMETER = ("_backward_hooks", "_post_accumulate_grad_hooks")


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters of a module itself, those that are None too: the dictionary that it keeps."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers of a module itself, likewise."""
    return module._buffers


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules right inside a module, likewise."""
    return module._modules


def own_names(module: nn.Module) -> dict[str, Any]:
    """Everything that can be asked of a module itself by name: its attributes, and what it has registered."""
    registered = {name: value for what in _REGISTERED for name, value in vars(module)[what].items()}
    return {name: value for name, value in vars(module).items() if name not in _REGISTERED} | registered


def contents(module: nn.Module) -> list[dict[str, Any]]:
    """The dictionaries in which a module keeps all that it has: its attributes, parameters, buffers and modules."""
    return [vars(module), *(vars(module)[what] for what in _REGISTERED)]


def rebuild(
    module: nn.Module,
    parameters: Mapping[str, Any],
    buffers: Mapping[str, Any],
    modules: Mapping[str, Any],
    into: nn.Module | None = None,
) -> nn.Module:
    """A module of the same type and attributes that has these parameters, buffers and modules.

    Args:
        into: an empty object of the type, where others refer to the new module before it is done.
    """
    new = object.__new__(type(module)) if into is None else into
    new.__dict__.update(vars(module))
    new.__dict__.update(zip(_REGISTERED, map(dict, (parameters, buffers, modules)), strict=True))
    return new


# --- Hooks


def forward_hooks(module: nn.Module) -> list[Callable]:
    """The forward hooks and pre-hooks of a module."""
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def share_forward_hooks_(module: nn.Module, other: nn.Module) -> None:
    """Let `module` have the forward hooks of `other`: the same dictionaries, which the hooks' handles know."""
    for name in _FORWARD_HOOKS:
        setattr(module, name, getattr(other, name))


def wrap_forward_hooks_(module: nn.Module, wrap: Callable[[Callable, str], Callable]) -> None:
    """Let `module` call `wrap(hook, what)` for each of its hooks, where `what` is "forward hook" or "... pre-hook"."""
    for name, what in (("_forward_pre_hooks", "forward pre-hook"), ("_forward_hooks", "forward hook")):
        setattr(module, name, OrderedDict((key, wrap(hook, what)) for key, hook in getattr(module, name).items()))


def drop_forward_hooks_(module: nn.Module) -> None:
    """Take all forward hooks and pre-hooks from a module, in place."""
    module._forward_hooks.clear()
    module._forward_pre_hooks.clear()


def forget_hooks_(module: nn.Module) -> None:
    """Give a module empty dictionaries of hooks: those that it had go on being another's."""
    for name in ("_forward_hooks", "_forward_pre_hooks", *_BACKWARD_HOOKS):
        module.__dict__[name] = OrderedDict()


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that see the gradients of its outputs."""
    return any(getattr(module, name, None) for name in _BACKWARD_HOOKS)


def has_state_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that see its state dict, or one that is loaded."""
    return any(getattr(module, name, None) for name in _STATE_HOOKS)


def has_gradient_hooks(parameter: Tensor) -> bool:
    """Whether a parameter has hooks on its own gradient."""
    return any(getattr(parameter, name, None) for name in _HOOKS_OF_A_PARAMETER)


# --- Tensors and states


def times_written(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version


def storage_id(tensor: Tensor) -> int:
    """A number that is the same for tensors that share memory."""
    return tensor.untyped_storage()._cdata


def convolved(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution would give with another weight and bias, padding of every mode included."""
    return layer._conv_forward(x, weight, bias)


def module_versions(state: Mapping[str, Any]) -> dict[str, Any]:
    """The versions of the modules whose state this is, by name; empty where they are not told."""
    return getattr(state, "_metadata", {})


def set_module_versions_(state: OrderedDict[str, Any], versions: Mapping[str, Any]) -> None:
    """Let a state tell the versions of its modules, which torch reads when it is loaded."""
    state._metadata = OrderedDict(versions)


# --- Autograd's record of a forward pass: a function for each operation

SET_GRAD_ENABLED = torch._C._set_grad_enabled  # what `torch.no_grad` calls


def output_shapes(function: Any) -> list[tuple[int, ...]]:
    """The shapes of what an operation gave."""
    return [tuple(output.shape) for output in function._input_metadata]


def operands(function: Any) -> list[tuple[Any, int]]:
    """By argument of an operation the one that made it, and which of its outputs it is; None: nobody, a constant."""
    return list(function.next_functions)


def learned_by(function: Any) -> Tensor | None:
    """The parameter or leaf that a function at the end of the record gathers gradients for; None: it is another one."""
    return getattr(function, "variable", None)


def saved(function: Any, what: str) -> Any:
    """What an operation was called with, such as its `dim`; None where it has kept no such thing.

    Autograd keeps negative integers as unsigned ones; here they are negative.
    """
    value = getattr(function, f"_saved_{what}", None)
    if isinstance(value, tuple | list):
        return tuple(_signed(one) for one in value)
    return _signed(value)


def _signed(value: Any) -> Any:
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


# --- torch-pruning


def graph_nodes(graph: Any) -> list[Any] | None:
    """The nodes of torch-pruning's graph of a network, in order; None where it could not be traced."""
    nodes = getattr(graph, "module2node", None)
    return None if nodes is None else list(nodes.values())


def is_output(module: nn.Module) -> bool:
    """Whether a module is what torch-pruning lets stand for an output of the network."""
    return type(module).__name__ == "_OutputOp"
