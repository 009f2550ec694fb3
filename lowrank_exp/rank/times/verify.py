"""Plans against the clock: the network at a plan is timed beside the dense one, and a plan that is off made again."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.rank.budget import BudgetError, Choice
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.plan import Plan
from lowrank_exp.rank.times.clock import WHOLE, Clock
from lowrank_exp.rank.times.whole import TimedPlan, copy_at, fit_whole, predict_ms
from lowrank_exp.runtime import time_interleaved

CLOSE = 0.03  # a prediction that is off by less is not corrected
ROUNDS = 4  # plans that are tried
STEP = 1.15  # a rank that takes so many times as long as the one below it leaves a block


def verify(plan: Plan, layers: Mapping[str, LayerProfile], model: nn.Module, batch: Tensor, clock: Clock) -> Plan:
    """The plan with the measured times of the whole network, dense and at the plan, in milliseconds.

    Both are timed in turn, so that a drift of the machine hits both alike.
    """
    networks = {"dense": model, "small": copy_at(model, choices_of(plan, layers))}
    prepared = {name: clock.runtime.prepare(network, batch) for name, network in networks.items()}
    timing = time_interleaved(prepared, seconds=WHOLE * clock.seconds)
    return replace(plan, measured_ms=timing["small"].median_ms, measured_dense_ms=timing["dense"].median_ms)


def plan_by_clock(
    layers: Mapping[str, LayerProfile],
    rank: Callable[[Mapping[str, LayerProfile]], Plan],
    model: nn.Module,
    batch: Tensor,
    clock: Clock,
) -> Plan:
    """The plan of a policy whose prediction holds: measured, and where it is off the profiles are corrected by it.

    Args:
        layers: profiles with times.
        rank: gives a plan for them, such as a partial of `allocate` with a budget of time.
        model: the network of the profiles, which is not changed.
        batch: images for it, as many as the profiles were timed with.
        clock: what they were timed by.

    Returns:
        Of at most four plans the one whose measured time is nearest to the predicted one, with both.
    """
    dense_ms, seen, plans = predict_ms(layers, {}), [], []
    for _ in range(ROUNDS):
        try:
            plan = rank(layers)
        except BudgetError:
            if not plans:
                raise
            break  # corrected, no plan is as fast: the one before is the nearest
        plan = verify(plan, layers, model, batch, clock)
        plans.append(plan)
        if abs(_miss(plan)) <= CLOSE:
            break
        ms = dense_ms * plan.measured_ms / plan.measured_dense_ms
        seen.append(TimedPlan(choices_of(plan, layers), ms))
        layers = fit_whole(layers, dense_ms, seen[-1:])
    return min(plans, key=lambda plan: abs(_miss(plan)))


def _miss(plan: Plan) -> float:
    """By how much the measured share of the dense network's time is above the predicted one, relative to that."""
    return (plan.measured_ms / plan.measured_dense_ms) / plan.remaining("latency") - 1


def explain_steps(plan: Plan, layers: Mapping[str, LayerProfile], batch: Tensor, clock: Clock) -> Plan:
    """The plan with what the next higher rank would have taken, as the reason of every rank that ends a block."""
    planned = dict(plan.layers)
    for name, choice in choices_of(plan, layers).items():
        if not isinstance(choice.rank, int) or choice.rank >= choice.profile.highest_rank:
            continue
        kind = decomposition_named(choice.profile.decomposition, **choice.profile.options)
        next_one, shape = choice.rank + 1, choice.profile.shape
        by_rank = clock.rank_ms(shape, kind, [choice.rank, next_one], batch.device)
        if by_rank[next_one] > STEP * by_rank[choice.rank]:
            times = f"{by_rank[next_one]:.3g} ms where {choice.rank} takes {by_rank[choice.rank]:.3g}"
            reason = planned[name].reason
            planned[name] = replace(planned[name], reason=f"{reason}; {next_one} leaves the block: it takes {times}")
    return replace(plan, layers=planned)


def choices_of(plan: Plan, layers: Mapping[str, LayerProfile]) -> dict[str, Choice]:
    """The options of a plan's layers that are not dense, in the profiles that it was made of."""
    return {
        name: Choice(one, layer.rank)
        for name, layer in plan.layers.items()
        if layer.rank is not None
        for one in layers[name].alternatives
        if (one.decomposition, one.options) == (layer.decomposition, layer.options)
    }
