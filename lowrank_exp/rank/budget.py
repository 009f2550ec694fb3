"""Budgets, and what may be chosen under one.

A budget is the fraction of the dense cost that may remain. It is met when the cost lies within 1 % of it on either
side. One of time need only be kept: times fall in steps, many ranks are left out for that, and what is faster than was
asked for is no worse for it. Costs are sums over layers, so all arithmetic here is on integers and exact.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowrank_exp.checks import fraction, positive
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import COSTS, milliseconds

TOLERANCE = 0.01
ROUNDING = 1e-9  # of a fraction times an integer
TIMES = ("latency", "latency_ms")  # bounds of the time
COMBINATIONS = 1_000_000  # as many are searched where the knob alone does not meet the budget


@dataclass(frozen=True)
class Budget:
    """Fractions of the dense MACs, weights, bytes and time that may remain; None: no bound. All that are given hold.

    `latency_ms` bounds the time of the whole network in milliseconds, in the place of `latency`.
    """

    macs: float | None = None
    weights: float | None = None
    bytes: float | None = None
    latency: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in COSTS:
            value = getattr(self, name)
            if value is None:
                continue
            wrong = f"the budget {name}={value!r} is not a fraction in (0, 1]: 0.5 keeps half of the dense {name}"
            fraction(name, value, wrong)
        if self.latency_ms is None:
            return
        positive(
            "latency_ms", self.latency_ms, f"latency_ms={self.latency_ms!r} is not a number of milliseconds above 0"
        )
        if self.latency is not None:
            raise ValueError(
                f"latency={self.latency} and latency_ms={self.latency_ms} bound the same time: set one of them to null"
            )

    @property
    def bounds(self) -> dict[str, float]:
        """The fractions that are set, by name."""
        return {name: value for name in COSTS if (value := getattr(self, name)) is not None}

    @property
    def of_time(self) -> str:
        """The bound of the time that is set, in words; empty where none is."""
        given = (f"{name}={value}" for name in TIMES if (value := getattr(self, name)) is not None)
        return ", ".join(given)

    def of(self, dense: Mapping[str, int]) -> "Budget":
        """The same budget of a network that costs `dense`, with milliseconds as the fraction of its time that they are.

        Raises:
            ValueError: the dense network does not take as long.
        """
        if self.latency_ms is None:
            return self
        if self.latency_ms > (dense_ms := milliseconds(dense["latency"])):
            raise ValueError(
                f"latency_ms={self.latency_ms} is met already: the dense network takes {dense_ms:.4g} ms. Give less"
            )
        return replace(self, latency=self.latency_ms / dense_ms, latency_ms=None)

    def __bool__(self) -> bool:
        return bool(self.bounds or self.of_time)


def told(what: str, share: float, dense: Mapping[str, int], form: str = ".4f") -> str:
    """A cost as a fraction of dense, and a time in milliseconds too.

    >>> told("macs", 0.5, {"macs": 10}), told("latency", 0.5, {"latency": 8_000_000})
    ('macs=0.5000', 'latency=0.5000 (4 ms)')
    """
    in_ms = f" ({milliseconds(share * dense[what]):.4g} ms)" if what == "latency" else ""
    return f"{what}={share:{form}}{in_ms}"


class BudgetError(ValueError):
    """No reachable cost lies within 1 % of the budget; `between`: there are some below and some above."""

    def __init__(self, message: str, between: bool = False) -> None:
        super().__init__(message)
        self.between = between

    def with_reasons(self, refused: Sequence[str]) -> "BudgetError":
        """The same, with the first of the layers that cannot be decomposed, and why."""
        if not refused:
            return self
        more = f" ... ({len(refused)} in all)" if len(refused) > 3 else ""
        return BudgetError(f"{self}. Not decomposed: {'; '.join(refused[:3])}{more}", self.between)


@dataclass(frozen=True)
class Candidate:
    """One layer that may be decomposed: its options in order of cost, the last one dense (None) if allowed.

    An option is a rung of the profile's ladder, counted from 1. Where several decompositions may be chosen from,
    `others` has the same layer by the others.
    """

    profile: LayerProfile
    rungs: tuple[int | None, ...]
    others: tuple["Candidate", ...] = ()

    @property
    def ranks(self) -> tuple[Rank | None, ...]:
        """The rank of every option, None for dense."""
        return tuple(None if rung is None else self.profile.ranks[rung - 1] for rung in self.rungs)

    def cost(self, option: int, what: str) -> int:
        """MACs, weights, bytes or nanoseconds (`what`) of an option."""
        rung = self.rungs[option]
        if rung is None:
            return getattr(self.profile, what)
        return int(getattr(self.profile, f"rank_{what}")[rung - 1])

    def option_of(self, rung: int) -> int:
        """The option nearest to a wished rung: within lowest and highest, dense beyond the cheaper ones."""
        rungs = [r for r in self.rungs if r is not None]
        if self.rungs[-1] is None and (not rungs or rung > rungs[-1]):
            return len(self.rungs) - 1
        return int(np.clip(rung, rungs[0], rungs[-1])) - rungs[0]


@dataclass(frozen=True)
class Choice:
    """A rank of one of the decompositions that a layer may have."""

    profile: LayerProfile
    rank: Rank


@dataclass(frozen=True)
class Problem:
    """What a policy is given: the candidates, what the layers left alone cost, the dense cost, and the budget.

    `multiple`: what ranks off the ladders must be multiples of.
    """

    candidates: tuple[Candidate, ...]
    alone: Mapping[str, int]
    dense: Mapping[str, int]
    budget: Budget
    multiple: int = 1

    def cost(self, options: Sequence[int], what: str) -> int:
        """MACs, weights, bytes or nanoseconds of the network at the chosen options."""
        return self.alone[what] + sum(c.cost(o, what) for c, o in zip(self.candidates, options, strict=True))

    def load(self, options: Sequence[int]) -> float:
        """Cost over budget, of the bound that is nearest to or most above its budget; 1 meets it exactly."""
        return max(self.cost(options, what) / (bound * self.dense[what]) for what, bound in self.budget.bounds.items())

    def fits(self, options: Sequence[int]) -> bool:
        """Whether no bound is exceeded."""
        return self.load(options) <= 1 + ROUNDING

    def met(self, options: Sequence[int]) -> bool:
        """Whether no bound is exceeded by more than 1 % and one of them is reached within 1 %."""
        return abs(self.load(options) - 1) <= TOLERANCE + ROUNDING

    def kept(self, options: Sequence[int]) -> bool:
        """Whether the budget is met; with one of time among the bounds, whether none is exceeded by more than 1 %."""
        return self.met(options) or (self.budget.latency is not None and self.fits(options))


def meet(
    problem: Problem,
    wish: Callable[[LayerProfile, float], int],
    level: Callable[[LayerProfile], np.ndarray],
    first: float | None,
) -> list[int]:
    """Options of all candidates that meet the budget, for a policy with one knob t in [0, 1].

    Args:
        problem: candidates and budget.
        wish: the rung the policy wishes for a layer at t; rises with t.
        level: the smallest t at which rungs 1, 2 ... are wished, `(rungs,)`, rising. Dense, which comes after the last
            cheaper rung, is wished where the next rung would be.
        first: a t to try first; taken if it meets the budget.

    The knob is turned up from the cheapest options as long as the budget holds; single ranks then fill up what is left,
    in the order in which the knob would have reached them. Where the ranks are so coarse that this leaves more than
    1 %, the combination nearest to it that meets the budget is searched for; of a budget of time what is left may stay.

    Raises:
        ValueError: no reachable cost lies within 1 %; the message names the nearest below and above.
    """
    if first is not None:
        options = [c.option_of(wish(c.profile, first)) for c in problem.candidates]
        if problem.met(options):
            return options
    options = _fill_up(problem, level)
    if problem.met(options):
        return options
    try:
        return _search_nearest(problem, options)
    except BudgetError:
        if problem.kept(options):
            return options
        raise


def _fill_up(problem: Problem, level: Callable[[LayerProfile], np.ndarray]) -> list[int]:
    """The options to which the knob can be turned up, then single ranks, without exceeding the budget."""
    options = [0] * len(problem.candidates)
    if not problem.fits(options):
        return options
    steps = []  # (t at which the option is wished, cost of the layer's first rank, layer, option)
    for index, candidate in enumerate(problem.candidates):
        levels = level(candidate.profile)
        for option, rung in enumerate(candidate.rungs[1:], start=1):
            wished = (candidate.rungs[option - 1] or 0) + 1 if rung is None else rung
            at = float(levels[min(wished, len(levels)) - 1])
            steps.append((at, -candidate.cost(0, "macs"), index, option))

    limits = {what: bound * problem.dense[what] * (1 + ROUNDING) for what, bound in problem.budget.bounds.items()}
    spent = {what: problem.cost(options, what) for what in limits}
    closed = set()
    for _, _, index, option in sorted(steps):
        if index in closed:
            continue
        candidate, old = problem.candidates[index], options[index]
        raised = {what: spent[what] + candidate.cost(option, what) - candidate.cost(old, what) for what in limits}
        if all(raised[what] <= limits[what] for what in limits):
            options[index], spent = option, raised
        else:
            closed.add(index)
    return options


def _search_nearest(problem: Problem, options: list[int]) -> list[int]:
    """The combination nearest to `options` that meets the budget, of those that `_list_near` gives to try."""
    near = _list_near(problem, options)

    def sums(per_layer: Sequence[np.ndarray]) -> np.ndarray:
        """One sum for every combination."""
        return functools.reduce(lambda some, more: np.add.outer(some, more).ravel(), per_layer, np.zeros(1, np.int64))

    def combination(index: int) -> list[int]:
        """The options behind a place in `sums`."""
        chosen = []
        for tried in reversed(near):
            index, place = divmod(index, len(tried))
            chosen.append(int(tried[place]))
        return chosen[::-1]

    loads = []
    for what, bound in problem.budget.bounds.items():
        costs = [np.array([c.cost(o, what) for o in tried]) for c, tried in zip(problem.candidates, near, strict=True)]
        loads.append((problem.alone[what] + sums(costs)) / (bound * problem.dense[what]))
    load = functools.reduce(np.maximum, loads)
    away = sums([abs(tried - option) for tried, option in zip(near, options, strict=True)])
    met = abs(load - 1) <= TOLERANCE + ROUNDING
    if met.any():
        return combination(int(np.argmin(np.where(met, away + abs(load - 1), np.inf))))
    below = combination(int(np.argmax(np.where(load <= 1, load, -np.inf)))) if (load <= 1).any() else None
    above = combination(int(np.argmin(np.where(load > 1, load, np.inf)))) if (load > 1).any() else None
    complete = all(len(tried) == len(c.rungs) for tried, c in zip(near, problem.candidates, strict=True))
    message = _tell_unreachable(problem, below, above, "nearest" if complete else "nearest found")
    raise BudgetError(message, between=below is not None and above is not None)


def _list_near(problem: Problem, options: list[int]) -> list[np.ndarray]:
    """Options of every layer to try: all where the combinations are few, else some around the given ones.

    Of very many layers only those with the cheapest ranks are moved, by one option.
    """
    sizes = [len(candidate.rungs) for candidate in problem.candidates]
    reach = max(sizes, default=0)
    while reach > 1 and math.prod(min(size, 2 * reach + 1) for size in sizes) > COMBINATIONS:
        reach //= 2
    if math.prod(min(size, 2 * reach + 1) for size in sizes) <= COMBINATIONS:
        moved = set(range(len(sizes)))
    else:
        most = int(math.log(COMBINATIONS, 3))
        cost = [(o + 1 == n, c.cost(0, "macs")) for o, n, c in zip(options, sizes, problem.candidates, strict=True)]
        moved = set(sorted(range(len(sizes)), key=cost.__getitem__)[:most])
    return [
        np.arange(max(0, o - reach), min(n, o + reach + 1)) if index in moved else np.array([o])
        for index, (o, n) in enumerate(zip(options, sizes, strict=True))
    ]


def _tell_unreachable(problem: Problem, below: list[int] | None, above: list[int] | None, nearest: str) -> str:
    def shares(options: list[int]) -> str:
        return ", ".join(
            told(what, problem.cost(options, what) / problem.dense[what], problem.dense) for what in bounds
        )

    bounds = problem.budget.bounds
    timed_too = {"macs", "latency"} <= bounds.keys()
    hint = ". Both bounds hold: where the time alone matters, set macs to null (rank.macs=null)" * timed_too
    wanted = ", ".join(told(what, bound, problem.dense, "") for what, bound in bounds.items())
    lowest = "every layer at its lowest rank" if problem.candidates else "no layer may be decomposed and gets cheaper"
    if below is None:
        return (
            f"the budget {wanted} cannot be reached: the smallest possible is {shares(above)} "
            f"({lowest}). Raise the budget, or let more layers be decomposed{hint}"
        )
    higher = f"the {nearest} above {shares(above)}" if above else "nothing lies above"
    return (
        f"the budget {wanted} cannot be met within 1 %: the {nearest} below is {shares(below)}, {higher}. "
        f"Ask for one of these{hint}"
    )
