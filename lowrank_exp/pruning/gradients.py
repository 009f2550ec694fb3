"""Parts of a network that run without gradients: followed all the same, and told apart."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.private import SET_GRAD_ENABLED, learned_by, operands

WITHOUT_GRADIENT = "no gradient of the output reaches it (torch.no_grad, detach, or its own output is not used)"
_CUTS = (Tensor.detach, Tensor.detach_, torch.detach, Tensor.data.__get__)
_TO_NUMPY = (Tensor.numpy, Tensor.__array__)


class Followed(TorchFunctionMode):
    """While it is entered, `torch.no_grad` and `detach` have no effect, so that autograd records every operation."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is SET_GRAD_ENABLED:
            return None
        if function in _CUTS:
            return args[0]
        if function in _TO_NUMPY:  # refuses what autograd records, which the network had detached
            args = (args[0].detach(), *args[1:])
        return function(*args, **(kwargs or {}))


def without_gradient(network: nn.Module, x: Tensor, called: Iterable[nn.Module]) -> list[nn.Module]:
    """The convolutions and linear layers among `called` that no gradient of the output of `network(x)` reaches.

    All parameters want gradients afterwards.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        ends = [tensor.grad_fn for tensor in tensors_of(network(x)) if tensor.grad_fn is not None]
    reached, left = set(ends), ends
    while left:
        more = {f for f, _ in operands(left.pop()) if f is not None} - reached
        reached |= more
        left += more
    learned = {id(leaf) for leaf in map(learned_by, reached) if leaf is not None}
    layers = {layer: {id(p) for p in layer.parameters()} for layer in called if isinstance(layer, LAYERS)}
    return [layer for layer, parameters in layers.items() if parameters and learned.isdisjoint(parameters)]


@contextmanager
def gradients_from(layers: Iterable[nn.Module], network: nn.Module) -> Iterator[list[Tensor]]:
    """What `layers` read wants gradients meanwhile, whatever made it, and the parameters of `network` want none.

    The list is filled with the tensors at which gradients begin because a part before them runs without.
    """
    begins: list[Tensor] = []

    def begin(layer: nn.Module, inputs: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        x = inputs[0] if inputs else kwargs["input"]
        if x.requires_grad or not torch.is_grad_enabled():
            return None
        begins.append(x.clone().requires_grad_())
        return ((begins[-1], *inputs[1:]), kwargs) if inputs else (inputs, kwargs | {"input": begins[-1]})

    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    hooks = [layer.register_forward_pre_hook(begin, with_kwargs=True) for layer in layers]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield begins
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in wanted:
            parameter.requires_grad_(True)


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor of a network's output, which may be a tensor, a tuple, a list or a mapping, also of such."""
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return [tensor for item in items for tensor in tensors_of(item)]
