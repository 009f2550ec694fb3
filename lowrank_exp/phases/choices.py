"""What a phase that makes factors says of its choices, and of the layers that could not have them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.phases.phase import Done
from lowrank_exp.rank import Plan
from lowrank_exp.reconstruct import fit_refusal

UNFITTED = "layers_fitted_to_their_weights"  # a value of the phase
FITS = {
    "whitened": "to the inputs of layers",
    "response": "to the responses of layers",
    "relu": "to the responses of layers behind the ReLU",
}


def tell_choices(rank: Mapping[str, Any], reconstruct: Mapping[str, Any]) -> str:
    """How ranks are chosen and factors fitted, and what it takes.

    Args:
        rank: options of the policy.
        reconstruct: the fit and its options.

    >>> tell_choices({"policy": "knapsack", "metric": "error"}, {"fit": None})
    'ranks by knapsack (metric error), factors fitted to the weights'
    >>> tell_choices({"policy": "uniform"}, {"fit": "whitened", "asymmetric": True, "images": 1000})
    'ranks by uniform, factors fitted in sequence to the inputs of layers on 1,000 training images, without labels'
    """
    metric = f" (metric {rank['metric']})" if rank.get("metric") else ""
    ranks = f"ranks by {rank['policy']}{metric}, " if isinstance(rank.get("policy"), str) else ""
    if (fit := reconstruct.get("fit")) is None:
        return f"{ranks}factors fitted to the weights"
    sequence = "in sequence " if reconstruct.get("asymmetric") else ""
    return f"{ranks}factors fitted {sequence}{FITS[fit]} on {reconstruct['images']:,} training images, without labels"


def with_unfitted(done: Done, plan: Plan, network: nn.Module, fit: str | None) -> Done:
    """What a phase did, with the number of layers that could only be fitted to their weights, where there are some.

    Args:
        done: so far.
        plan: that is carried out.
        network: before that.
        fit: to data, if there is one.
    """
    if fit is None:
        return done
    modules, count = dict(network.named_modules()), 0
    for name, layer in plan.layers.items():
        if layer.rank is not None:
            kind = decomposition_named(layer.decomposition, **layer.options)
            count += fit_refusal(modules[name], kind, layer.rank, fit) is not None
    return replace(done, values=done.values | {UNFITTED: float(count)}) if count else done
