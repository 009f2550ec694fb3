"""What a plan leaves to be said: a budget that it does not meet, or that it changes nothing."""

from collections.abc import Callable, Mapping

from torch import nn

from lowrank_exp.network.cost import CONVOLUTIONS, OUTSIDE
from lowrank_exp.rank.budget import TOLERANCE
from lowrank_exp.rank.offer import COSTS
from lowrank_exp.rank.plan import Plan

BY_CLOCK = 0.05  # by so much a measured time may exceed its budget


def missed_budget(plan: Plan, rank: Callable, network: nn.Module) -> str:
    """With numbers, which budget of `rank` the plan does not meet within 1 %; empty: all hold, and one is reached.

    A budget of time need not be reached. Our own policies meet their budgets or raise; one of somebody else's need not
    look at it.

    Args:
        plan: what `rank` gave.
        rank: `lowrank_exp.rank.allocate` with its options by `functools.partial`; others have no budget to look at.
        network: before it is changed; says what is a plain convolution, for budgets over these.
    """
    left, bounds = _left_and_bounds(plan, rank, network)
    load = max((left[what] / bound for what, bound in bounds.items()), default=1.0)
    if abs(load - 1) <= TOLERANCE + 1e-9 or (load < 1 and "latency" in bounds):
        return ""
    told = _tell(left, bounds)
    return f"{told}: the policy {plan.policy} has missed its budget; name another, or set the budget to null"


def missed_by_clock(plan: Plan, rank: Callable) -> list[str]:
    """A sentence where the network, as measured, takes longer than a budget of time by more than 5 %; else nothing.

    A plan whose times nobody measured, or whose budget is of the convolutions alone, has nothing to be compared.
    """
    options = getattr(rank, "keywords", {})
    if plan.over == "conv" or plan.measured_ms is None or plan.measured_dense_ms is None:
        return []
    bounds = {"latency": plan.measured_ms / plan.measured_dense_ms, "latency_ms": plan.measured_ms}
    said = []
    for name, measured in bounds.items():
        if (bound := options.get(name)) is not None and measured > (1 + BY_CLOCK) * bound:
            said.append(
                f"the network takes {plan.measured_ms:.4g} of {plan.measured_dense_ms:.4g} ms as measured, "
                f"{plan.predicted_ms:.4g} of {plan.dense_ms:.4g} as the sum over its layers, where {name}={bound} was "
                "asked for: layers in a row take other times here than alone, or the machine was busy; ask for less"
            )
    return said


def left_unspent(plan: Plan, rank: Callable, network: nn.Module) -> list[str]:
    """A sentence where a plan under a budget of time stays below all bounds by more than 1 %; else nothing.

    The arguments are those of `missed_budget`.
    """
    left, bounds = _left_and_bounds(plan, rank, network)
    if "latency" not in bounds or any(left[what] / bound >= 1 - TOLERANCE - 1e-9 for what, bound in bounds.items()):
        return []
    return [f"{_tell(left, bounds)}: times fall in steps, and the policy {plan.policy} has no better plan between"]


def _left_and_bounds(plan: Plan, rank: Callable, network: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """What remains of everything that `rank` bounds, and the bounds; of an empty plan nothing is told."""
    options = getattr(rank, "keywords", {})
    bounds = {what: options[what] for what in COSTS if options.get(what) is not None}
    layers = plan.layers
    if plan.over == "conv":
        layers = {name: layer for name, layer in layers.items() if _counts(network, name)}
    counted = Plan(dict(layers))
    if (most := options.get("latency_ms")) is not None and counted.dense_ms:
        bounds["latency"] = most / counted.dense_ms
    return ({what: counted.remaining(what) for what in bounds}, bounds) if layers else ({}, {})


def _tell(left: Mapping[str, float], bounds: Mapping[str, float]) -> str:
    return ", ".join(
        f"{left[what]:.4f} of the {what} remain, {bound:.6g} was asked for" for what, bound in bounds.items()
    )


def _counts(network: nn.Module, name: str) -> bool:
    """Whether a budget of convolutions counts what goes by this name."""
    return name == OUTSIDE["conv"] or isinstance(dict(network.named_modules()).get(name), CONVOLUTIONS)


def without_effect(plan: Plan) -> list[str]:
    """A sentence where the plan leaves every layer dense; else nothing."""
    if any(layer.rank is not None for layer in plan.layers.values()):
        return []
    return ["no layer is decomposed, the network is what it was: see the reasons by layer"]
