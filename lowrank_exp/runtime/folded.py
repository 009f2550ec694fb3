"""Batch norms folded into the layers before them, which changes no output of a network in evaluation mode.

Legend: O out channels, I in channels, G groups, K kernel entries.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import CONVOLUTIONS, LAYERS
from lowrank_exp.network.modes import evaluating
from lowrank_exp.network.private import forward_hooks, own_modules

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
OF_TIMM = "timm.layers.norm_act.BatchNormAct2d"  # a batch norm, then its modules `drop` and `act`


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    r"""A copy of `network` in evaluation mode, without gradients, its batch norms folded where that is possible.

    .. math:: W'_o = \frac{\gamma_o}{\sqrt{\sigma^2_o + \epsilon}} W_o, \qquad
              b'_o = \frac{\gamma_o}{\sqrt{\sigma^2_o + \epsilon}} (b_o - \mu_o) + \beta_o

    One forward pass of `example` tells which batch norm reads the output of which convolution or linear layer: it is
    folded where nothing else reads that output, and both are called once. An `nn.Identity` takes its place, or of
    timm's batch norms their activation. Those that follow something else, that take statistics of the batch, or whose
    layer has a parametrization or hooks, stay.
    """
    copy = copy_network(network).eval().requires_grad_(False)
    for layer, norm in foldable(copy, example):
        _fold_(layer, norm)
        for parent in copy.modules():
            for name, child in own_modules(parent).items():
                if child is norm:
                    setattr(parent, name, _without_norm(norm))
    return copy


def foldable(network: nn.Module, example: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Every layer whose output one batch norm reads and nothing else, and that batch norm, in the order of the network.

    The batch norm of a layer that is the network itself is not among them.
    """
    watch = _Readers()
    named = [module for module in network.modules() if module is not network and not forward_hooks(module)]
    layers = [m for m in named if type(m) in LAYERS]
    norms = [m for m in named if _is_batch_norm(m) and m.track_running_stats and m.running_mean is not None]
    handles = [layer.register_forward_hook(watch.made_by) for layer in layers]
    for norm in norms:
        handles += [norm.register_forward_pre_hook(watch.enter), norm.register_forward_hook(watch.leave)]
    try:
        with evaluating(network), watch:
            outputs = network(example)
    finally:
        for handle in handles:
            handle.remove()
    for output in tree_leaves(outputs):
        watch.read(output)
    return [
        (layer, norm)
        for layer in layers
        if watch.calls[layer] == 1
        and len(readers := watch.readers.get(layer, set())) == 1
        and (norm := next(iter(readers))) is not None
        and watch.calls[norm] == 1
    ]


def _is_batch_norm(module: nn.Module) -> bool:
    return type(module) in BATCH_NORMS or f"{type(module).__module__}.{type(module).__qualname__}" == OF_TIMM


def _without_norm(norm: nn.Module) -> nn.Module:
    """What a batch norm does beside."""
    return (nn.Identity() if type(norm) in BATCH_NORMS else nn.Sequential(norm.drop, norm.act)).eval()


class _Readers(TorchDispatchMode):
    """Who reads the outputs of layers in a forward pass: a batch norm, or None for all else.

    A tensor carries its layer as an attribute, so that nothing is kept alive and no address is taken for another's.
    """

    MARK = "_lowrank_exp_made_by"

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[nn.Module] = Counter()
        self.readers: dict[nn.Module, set[nn.Module | None]] = {}
        self.inside: nn.Module | None = None

    def made_by(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.calls[layer] += 1
        if not isinstance(layer, nn.Linear) or output.dim() == 2:  # else a batch norm would see features last
            setattr(output, self.MARK, layer)

    def enter(self, norm: nn.Module, inputs: tuple) -> None:
        self.calls[norm] += 1
        self.inside = norm

    def leave(self, norm: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.inside = None

    def read(self, value: Any) -> None:
        layer = getattr(value, self.MARK, None) if isinstance(value, Tensor) else None
        if layer is not None:
            self.readers.setdefault(layer, set()).add(self.inside)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            self.read(value)
        return func(*args, **(kwargs or {}))


def _fold_(layer: nn.Module, norm: nn.Module) -> None:
    """Give `layer` the weight and bias with which it computes what `norm` makes of its output; in double precision."""
    dtype, weight = layer.weight.dtype, layer.weight.double()
    scale_O = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift_O = -norm.running_mean.double()
    if norm.weight is not None:
        scale_O = scale_O * norm.weight.double()
    if layer.bias is not None:
        shift_O = shift_O + layer.bias.double()
    bias_O = shift_O * scale_O
    if norm.bias is not None:
        bias_O = bias_O + norm.bias.double()
    if isinstance(layer, CONVOLUTIONS) and layer.transposed:
        weight_GIOK = weight.view(layer.groups, -1, *weight.shape[1:])
        scale_GIOK = scale_O.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        weight = (weight_GIOK * scale_GIOK).view(weight.shape)
    else:
        weight = weight * scale_O.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias_O.to(dtype), requires_grad=False)
