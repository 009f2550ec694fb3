"""Groups tried out: a copy with weights of its own is masked, then cut, and must give the same output."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.modes import evaluating
from lowrank_exp.pruning.cut_groups import cut_groups_
from lowrank_exp.pruning.gradients import tensors_of
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.mask import keepable, mask_

FRACTION = 3  # every third channel goes, roughly
TOLERANCE = 1e-3  # relative, in single precision and through a hundred layers; a wrong channel gives 0.01 and more
SEED = 0


def find_unfaithful(
    model: nn.Module, groups: Sequence[ChannelGroup], example_input: Tensor, close_up: bool = False
) -> dict[str, str]:
    """The groups, by name, whose removal does not give the output of the masked network, and what it gave.

    All are tried together, and one by one where that fails. With `close_up` outputs are not compared, only computed.
    """
    if not groups or find_fault(model, groups, example_input, close_up) is None:
        return {}
    faulty = {group.name: why for group in groups if (why := find_fault(model, [group], example_input, close_up))}
    left = [group for group in groups if group.name not in faulty]
    if left and (why := find_fault(model, left, example_input, close_up)):
        faulty |= {group.name: f"removed together with others, {why}" for group in left}
    return faulty


def find_fault(model: nn.Module, groups: Sequence[ChannelGroup], example_input: Tensor, close_up: bool) -> str | None:
    """What is wrong with a network like `model` after a third of the channels of `groups` are gone; None: nothing."""
    network = lively_copy(model)
    device = next(network.parameters()).device
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(1, *example_input.shape[1:], generator=draw).to(device)
    keep = {}
    for group in groups:
        drawn = torch.rand(group.channels, generator=draw) < 1 / FRACTION
        keep[group] = keepable(group, drawn.nonzero().flatten().tolist())
    gone = {group: sorted(set(range(group.channels)).difference(kept)) for group, kept in keep.items()}
    with evaluating(network):
        mask_(network, groups, gone)
        masked = tensors_of(network(x))
        try:
            cut_groups_(network, keep)
            removed = tensors_of(network(x))
        except Exception as error:  # whatever a network's own code raises
            return f"the network fails on fewer channels: {error}"
    if close_up:
        return None
    if [t.shape for t in masked] != [t.shape for t in removed]:
        return "the network's output has another shape on fewer channels"
    error = max(float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in zip(masked, removed, strict=True))
    if not error < TOLERANCE:
        return (
            f"the network without these channels differs from the masked one by {error:.2g} of the output: what stands "
            "behind a silent filter is not 0 for it"
        )
    return None


def lively_copy(model: nn.Module) -> nn.Module:
    """A copy in single precision with weights that keep the scale of their input, and statistics of its own.

    It lies where `model` does, or in memory where that is on the meta device.
    """
    device = next(model.parameters()).device
    device = torch.device("cpu") if device.type == "meta" else device
    draw = torch.Generator(device).manual_seed(SEED)

    def drawn(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty(like.shape, device=device).uniform_(low, high, generator=draw)

    memo: dict[int, Any] = {}
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                bound = sqrt(6 / max(1, parameter[0].numel()))
                memo[id(parameter)] = nn.Parameter(drawn(parameter, -bound, bound), False)
            elif key == "weight":
                memo[id(parameter)] = nn.Parameter(drawn(parameter, 0.5, 1.5), False)
            else:
                memo[id(parameter)] = nn.Parameter(drawn(parameter, -0.2, 0.2), False)
        for key, buffer in module.named_buffers(recurse=False):
            if key == "running_var":
                memo[id(buffer)] = drawn(buffer, 0.5, 2)
            elif buffer.is_floating_point():
                memo[id(buffer)] = drawn(buffer, -0.2, 0.2)
    return copy_network(model, memo)
