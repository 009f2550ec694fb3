"""Layers that another library factorizes: in the plan, its error and time beside those of our own solver."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition import Rank, decomposition_named, recompose
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.rank import Plan, PlannedLayer


def with_reference(plan: Plan, network: nn.Module) -> Plan:
    """The plan; layers with a `solver` that is not ours say in their reason what both take and leave, to the weights.

    Both are run for it, so it takes longer than the factors alone.
    """
    layers = {name: _compared(layer, name, network) for name, layer in plan.layers.items()}
    return replace(plan, layers=layers)


def _compared(layer: PlannedLayer, name: str, network: nn.Module) -> PlannedLayer:
    options = dict(layer.options)
    solver = options.pop("solver", "ours")
    if solver == "ours" or layer.rank is None:
        return layer
    dense = network.get_submodule(name)
    found = []
    for told, its in ((solver, {"solver": solver}), ("ours", {})):
        kind = decomposition_named(layer.decomposition, **options, **its)
        error, seconds = _error_and_time(kind.factorize, dense, layer.rank)
        found.append(f"{told}: error {error:.4f} in {seconds:.2g} s")
    return replace(layer, reason=f"{layer.reason}; {', '.join(found)}")


def _error_and_time(
    factorize: Callable[[nn.Module, Rank], nn.Sequential], dense: nn.Module, rank: Rank
) -> tuple[float, float]:
    """Relative error of the weight, and seconds."""
    with warnings.catch_warnings():  # said when the factors are made
        warnings.simplefilter("ignore")
        seconds = stopwatch()
        chain = factorize(dense, rank)
        taken = seconds()
    weight: Tensor = dense.weight.detach().double()
    with torch.no_grad():
        left = float((recompose(chain).weight.double() - weight).norm())
    return left / (float(weight.norm()) or 1.0), taken
