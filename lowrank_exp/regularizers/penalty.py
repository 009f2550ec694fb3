"""What every penalty offers: a value, and its gradient in closed form added to `.grad`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lowrank_exp.network.names import by_layer
from lowrank_exp.svd_form import SVDForm


class Penalty(ABC):
    """A function of the parameters of some layers of a network that is added to the loss.

    A penalty is a frozen dataclass of its options: it keeps nothing between two calls, so a training that goes on from
    a checkpoint adds what one left alone would have added. It looks for its layers at every call, so layers may be
    replaced in between.
    """

    layers: Sequence[str] | None

    @abstractmethod
    def value(self, network: nn.Module) -> Tensor:
        """The penalty, unweighted, a scalar; differentiable with respect to the parameters."""

    @abstractmethod
    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        """Add `weight` times the gradient to `.grad`; the penalty, unweighted. Runs without autograd and autocast."""

    def due(self, step: int) -> bool:
        """Whether the penalty acts at this step of the training, counted from 0."""
        return True

    def apply_(self, network: nn.Module, weight: float = 1.0, step: int = 0) -> Tensor | None:
        """Add `weight` times the gradient to `.grad` of the network's parameters, in closed form.

        Called after the backward pass (after all of them where gradients are accumulated, after the gradients are
        averaged over processes or unscaled), before gradients are clipped and before the optimizer's step. A missing
        `.grad` is created; frozen parameters get none. Everything runs in the precision of the parameters, inside an
        autocast region too. Equal input gives equal bits.

        Args:
            network: its layers are edited in `.grad` only.
            weight: factor on the gradient; 0 adds nothing.
            step: of the training, from 0; some penalties act only now and then.

        Returns:
            The penalty, unweighted and detached, a scalar on the parameters' device that was not read back to the
            host; None at a step at which it does not act.

        Raises:
            ValueError: the network has no layer for this penalty, or `layers` names one that is none.
        """
        if not self.due(step):
            return None
        with in_full_precision(network):
            return self._add_(network, weight)


@contextmanager
def in_full_precision(network: nn.Module) -> Iterator[None]:
    """Without autograd, and in the parameters' own precision inside an autocast region too."""
    device = next((parameter.device.type for parameter in network.parameters()), "cpu")
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield


def gradient(parameter: Parameter) -> Tensor:
    """`parameter.grad`, made of zeros where there is none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def svd_forms(network: nn.Module, layers: Sequence[str] | None, who: str) -> list[SVDForm]:
    """The layers in SVD form that `layers` names; all for None."""
    forms = choose_layers(network, layers, lambda module: isinstance(module, SVDForm), who, "layers in SVD form")
    return list(forms.values())


def choose_layers(
    network: nn.Module,
    layers: Sequence[str] | None,
    fits: Callable[[nn.Module], bool],
    who: str,
    kinds: str,
) -> dict[str, Any]:
    """The modules that `fits` accepts, by name in network order; those alone that `layers` names, all for None.

    Raises:
        ValueError: there are none, a name of `layers` is another module or does not exist, a pattern matches none.
    """
    candidates = {name: module for name, module in network.named_modules() if fits(module)}
    if not candidates:
        raise ValueError(f"{who} acts on {kinds}, and this network has none: convert its layers, or leave {who} out")
    if layers is None:
        return candidates
    modules = dict(network.named_modules())
    for name in layers:
        if name in modules and name not in candidates:
            raise ValueError(f"{who} acts on {kinds}, but {name} is a {type(modules[name]).__name__}: do not name it")
    return {name: candidates[name] for name in by_layer(dict.fromkeys(layers), candidates, who)}


def check_layers(layers: Any, who: str) -> None:
    """Nothing, if `layers` is None or a sequence of names.

    Raises:
        ValueError: anything else.
    """
    if layers is None:
        return
    if isinstance(layers, str) or not layers or not all(isinstance(name, str) for name in layers):
        raise ValueError(f"{who}: layers is {layers!r}; allowed are null (all) and a list of names or re: patterns")
