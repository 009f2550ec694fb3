"""Which ranks of a layer a policy may choose: those that rules allow and that are cheaper than dense."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_exp.checks import is_whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Budget
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import milliseconds


def cheaper_rungs(layer: LayerProfile, bound: Any, budget: Budget) -> tuple[int | None, ...] | str:
    """The options of a layer, cheapest first: rungs of cheaper ranks within the bounds, then dense (None); or why none.

    A layer of which a rank must be chosen (`dense_option` False) offers every rung within the bounds.

    Args:
        layer: its profile.
        bound: the layer's entry in `rules`: None, or a mapping with `min` and `max`; a highest rank keeps dense out.
        budget: what "cheaper" means: in everything that it bounds.

    Raises:
        ValueError: something that is not a bound, or one that leaves no rank.
    """
    within = _rungs_within(layer, bound)
    if not layer.dense_option:
        return tuple(within)
    costs = list(budget.bounds) or [layer.saves[0]]
    rungs = [
        rung
        for rung in within
        if all(getattr(layer, f"rank_{what}")[rung - 1] < getattr(layer, what) for what in costs)
    ]
    if not rungs:
        return _tell_lowest(layer, within[0], costs)
    dense_allowed = not isinstance(bound, Mapping) or bound.get("max") is None
    return (*rungs, None) if dense_allowed else tuple(rungs)


def _tell_lowest(layer: LayerProfile, rung: int, costs: Sequence[str]) -> str:
    """That no rank is cheaper than dense, with what the lowest costs; or none faster, where that is all it lacks."""
    rank = layer.ranks[rung - 1]
    counted = {what: (int(getattr(layer, f"rank_{what}")[rung - 1]), getattr(layer, what)) for what in costs}
    times = counted.pop("latency", None)
    told = ", ".join(f"{cost:,} of {dense:,} {what}" for what, (cost, dense) in counted.items())
    if times is None:
        return f"no rank is cheaper than dense: rank {rank} has {told}"
    in_ms = "{:.4g} of {:.4g} ms".format(*map(milliseconds, times))
    if all(cost < dense for cost, dense in counted.values()):
        return f"no rank is faster than dense: rank {rank} takes {in_ms}"
    return f"no rank is cheaper than dense: rank {rank} has {told} and takes {in_ms}"


def _rungs_within(layer: LayerProfile, bound: Any) -> list[int]:
    """The rungs whose ranks lie within a rule's bounds."""
    if bound is None:
        return list(range(1, layer.rungs + 1))
    if not isinstance(bound, Mapping) or set(bound) - {"min", "max"}:
        raise ValueError(
            f"the rule for {layer.name} is null (leave it alone), a rank or {{min: ..., max: ...}}, got {bound!r}"
        )
    full = max(_numbers(layer.full_rank))
    low = 1 if bound.get("min") is None else bound["min"]
    high = full if bound.get("max") is None else bound["max"]
    whole = is_whole(low) and is_whole(high)
    if whole and low > full:
        raise ValueError(f"the rule for {layer.name} asks for at least {low}, above its full rank {layer.full_rank}")
    if not whole or not 1 <= low <= high:
        raise ValueError(f"the rule for {layer.name} needs integers with 1 <= min <= max, got {dict(bound)}")
    numbers = [_numbers(rank) for rank in layer.ranks]
    # A number of a rank that cannot be as high as the bound asks is bounded by its own highest.
    lowest = [min(low, most) for most in _numbers(layer.full_rank)]
    rungs = [
        rung
        for rung, rank in enumerate(numbers, start=1)
        if max(rank) <= high and all(one >= least for one, least in zip(rank, lowest, strict=True))
    ]
    if not rungs:
        raise ValueError(f"the rule for {layer.name} leaves none of its ranks: {dict(bound)}")
    return rungs


def _numbers(rank: Rank) -> tuple[int, ...]:
    return rank if isinstance(rank, tuple) else (rank,)
