"""The scale of the batch norm behind a layer; and which batch norm that is."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_exp.network.modes import evaluating
from lowrank_exp.pruning.criteria.criterion import WeightCriterion


@dataclass(frozen=True)
class BNScale(WeightCriterion):
    r"""The absolute scale :math:`|\gamma_f|` that the batch norm behind a layer gives each of its channels.

    Raises:
        ValueError: there is no batch norm behind a layer, or it has no scale.

    Source: Liu, Li, Shen, Huang, Yan, Zhang 2017, "Learning efficient convolutional networks through network slimming".
    """

    needs_norm: ClassVar[bool] = True

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        if norm is None or norm.weight is None:
            missing = "no batch norm behind it" if norm is None else "a batch norm without a scale behind it"
            raise ValueError(f"BNScale: {name} has {missing}; take another criterion, or leave the layer out")
        return norm.weight.detach().double().abs()


def norms_behind(network: nn.Module, layers: Sequence[str], image: Tensor) -> dict[str, nn.Module]:
    """By layer the batch norm that takes its output as it is, of those that have one; `image` is `(1, C, ...)`."""
    modules = {name: network.get_submodule(name) for name in layers}
    with evaluating(network), norms_watched(network, modules) as norms:
        network(image.to(next(network.parameters()).device))
    return {layer: network.get_submodule(norm) for layer, norm in norms.items()}


@contextmanager
def norms_watched(network: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[dict[str, str]]:
    """While the network (or a copy of it) runs, the batch norm that takes each layer's output as it is: names by names.

    A layer whose output goes on to something else first (a concatenation, a ReLU) has none.
    """
    norm_of: dict[str, str] = {}
    made: dict[int, tuple[weakref.ref, str]] = {}

    def after_layer(name: str, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        made[id(output)] = weakref.ref(output), name

    def before_norm(name: str, norm: nn.Module, inputs: tuple) -> None:
        map_, layer = made.get(id(inputs[0]), (None, None))
        if map_ is not None and map_() is inputs[0]:
            norm_of[layer] = name

    norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    hooks = [layer.register_forward_hook(partial(after_layer, name)) for name, layer in layers.items()]
    hooks += [norm.register_forward_pre_hook(partial(before_norm, name)) for name, norm in norms.items()]
    try:
        yield norm_of
    finally:
        for hook in hooks:
            hook.remove()
