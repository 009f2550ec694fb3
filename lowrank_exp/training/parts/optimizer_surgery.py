"""Optimizers whose parameters are edited while they are at work: what they remember is edited alike, in place."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lowrank_exp.pruning.cut import Slice


def follow_removal_(
    optimizer: Optimizer, before: Mapping[str, Parameter], network: nn.Module, slices: Mapping[str, Slice]
) -> None:
    """Put the parameters that `network` has now in the place of those before, with what is remembered of what is left.

    Groups, learning rates and step counts stay; so do the momentum and the moments of every entry that is left, bit for
    bit. Gradients are those of the next step.

    Args:
        optimizer: of the parameters `before`, some of which it may not train.
        before: the network's parameters before channels were removed, by name.
        network: after it.
        slices: how parameters were cut, as `remove_` gives them.

    Raises:
        ValueError: the optimizer keeps something of a parameter that is not of its shape.
    """
    now = dict(network.named_parameters())
    cut = {name: slices[name] for name, parameter in before.items() if now[name] is not parameter}
    new_for = {id(before[name]): now[name] for name in cut}
    for name, slice_ in cut.items():
        if (state := optimizer.state.pop(before[name], None)) is not None:
            elementwise = entrywise(optimizer, before[name], state)
            optimizer.state[now[name]] = {
                key: slice_(value) if key in elementwise else value for key, value in state.items()
            }
    for group in optimizer.param_groups:
        group["params"] = [new_for.get(id(parameter), parameter) for parameter in group["params"]]


@torch.no_grad()
def forget_(optimizer: Optimizer, parameter: Parameter, mask: Tensor) -> None:
    """Set what the optimizer remembers of the masked entries of a parameter to 0, as of one that it has not moved yet.

    Args:
        optimizer: which may not train the parameter.
        parameter: of the network.
        mask: boolean, broadcasts to its shape.

    Raises:
        ValueError: the optimizer keeps something of a parameter that is not of its shape.
    """
    state = optimizer.state.get(parameter, {})
    for key in entrywise(optimizer, parameter, state):
        state[key].masked_fill_(mask.to(state[key].device), 0)


def entrywise(optimizer: Optimizer, parameter: Parameter, state: Mapping[str, object]) -> set[str]:
    """Which of what is remembered of a parameter has a number for each of its entries.

    Raises:
        ValueError: something has neither that shape nor is a single number.
    """
    found = set()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.numel() == 1 != parameter.numel():
            continue
        if value.shape != parameter.shape:
            raise ValueError(
                f"{type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}: filters cannot be pruned while it trains; take SGD or Adam"
            )
        found.add(key)
    return found
