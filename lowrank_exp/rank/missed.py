"""What a plan leaves to be said: a budget that it does not meet, or that it changes nothing."""

from collections.abc import Callable

from torch import nn

from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.network.cost import CONVOLUTIONS, OUTSIDE
from lowrank_exp.rank.budget import TOLERANCE
from lowrank_exp.rank.plan import Plan


def missed_budget(plan: Plan, rank: Callable, network: nn.Module) -> str:
    """With numbers, which budget of `rank` the plan does not meet within 1 %; empty: all hold, and one is reached.

    Our own policies meet their budgets or raise; one of somebody else's need not look at it.

    Args:
        plan: what `rank` gave.
        rank: `lowrank_exp.rank.allocate` with its options by `functools.partial`; others have no budget to look at.
        network: before it is changed; says what is a plain convolution, for budgets over these.
    """
    options = getattr(rank, "keywords", {})
    bounds = {what: options[what] for what in WHAT if options.get(what) is not None}
    counted = plan.layers
    if plan.over == "conv":
        counted = {n: layer for n, layer in counted.items() if _counts(network, n)}
    left = {what: Plan(dict(counted)).remaining(what) for what in bounds}
    if (
        not bounds
        or not counted
        or abs(max(left[what] / bound for what, bound in bounds.items()) - 1) <= TOLERANCE + 1e-9
    ):
        return ""
    left_over = ", ".join(
        f"{left[what]:.4f} of the {what} remain, {bound} was asked for" for what, bound in bounds.items()
    )
    return f"{left_over}: the policy {plan.policy} has missed its budget; name another, or set the budget to null"


def _counts(network: nn.Module, name: str) -> bool:
    """Whether a budget of convolutions counts what goes by this name."""
    return name == OUTSIDE["conv"] or isinstance(dict(network.named_modules()).get(name), CONVOLUTIONS)


def without_effect(plan: Plan) -> list[str]:
    """A sentence where the plan leaves every layer dense; else nothing."""
    if any(layer.rank is not None for layer in plan.layers.values()):
        return []
    return ["no layer is decomposed, the network is what it was: see the reasons by layer"]
