"""Budgets, and what may be chosen under one.

A budget is the fraction of the dense cost that may remain. It is met when the cost lies within 1 % of it on either
side. Costs are sums over layers, so all arithmetic here is on integers and exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lowrank_exp.rank.profile import LayerProfile

TOLERANCE = 0.01


@dataclass(frozen=True)
class Budget:
    """Fractions of the dense MACs and weights that may remain; None sets no bound. Both given: both hold."""

    macs: float | None = None
    weights: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("macs", self.macs), ("weights", self.weights)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ValueError(
                    f"the budget {name}={value!r} is not a fraction in (0, 1]: 0.5 keeps half of the dense {name}"
                )

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {name: value for name in ("macs", "weights") if (value := getattr(self, name)) is not None}

    def __bool__(self) -> bool:
        return bool(self.bounds)


@dataclass(frozen=True)
class Candidate:
    """One layer that may be decomposed: its options in order of cost, the last one dense (rank None) if allowed."""

    profile: LayerProfile
    ranks: tuple[int | None, ...]

    def cost(self, option: int, what: str) -> int:
        """MACs or weights (`what`) of an option."""
        rank = self.ranks[option]
        if rank is None:
            return getattr(self.profile, what)
        return int(getattr(self.profile, f"rank_{what}")[rank - 1])

    def option_of(self, rank: int) -> int:
        """The option nearest to a wished rank: within lowest and highest, dense beyond the cheaper ranks."""
        ranks = [r for r in self.ranks if r is not None]
        if self.ranks[-1] is None and (not ranks or rank > ranks[-1]):
            return len(self.ranks) - 1
        return int(np.clip(rank, ranks[0], ranks[-1])) - ranks[0]


@dataclass(frozen=True)
class Problem:
    """What a policy is given: the candidates, what the layers left alone cost, the dense cost, and the budget."""

    candidates: tuple[Candidate, ...]
    alone: Mapping[str, int]
    dense: Mapping[str, int]
    budget: Budget

    def cost(self, options: Sequence[int], what: str) -> int:
        """MACs or weights of the network at the chosen options."""
        return self.alone[what] + sum(c.cost(o, what) for c, o in zip(self.candidates, options, strict=True))

    def fits(self, options: Sequence[int], slack: float = 0.0) -> bool:
        """Whether every bound holds, within `slack`."""
        return all(
            self.cost(options, what) <= bound * self.dense[what] * (1 + slack) * (1 + 1e-12)
            for what, bound in self.budget.bounds.items()
        )

    def met(self, options: Sequence[int]) -> bool:
        """Whether no bound is exceeded by more than 1 % and one of them is reached within 1 %."""
        reached = any(
            self.cost(options, what) >= bound * self.dense[what] * (1 - TOLERANCE) * (1 - 1e-12)
            for what, bound in self.budget.bounds.items()
        )
        return reached and self.fits(options, TOLERANCE)


def meet(
    problem: Problem,
    wish: Callable[[LayerProfile, float], int],
    level: Callable[[LayerProfile], np.ndarray],
    first: float | None,
) -> list[int]:
    """Options of all candidates that meet the budget, for a policy with one knob t in [0, 1].

    Args:
        problem: candidates and budget.
        wish: the rank the policy wishes for a layer at t; rises with t.
        level: the smallest t at which ranks 1 ... full are wished, `(full_rank,)`, rising. Dense, which comes after the
            last cheaper rank, is wished where the next rank would be.
        first: a t to try first; taken if it meets the budget.

    The knob is turned up from the cheapest options as long as the budget holds; single ranks then fill up what is left,
    in the order in which the knob would have reached them.

    Raises:
        ValueError: no reachable cost lies within 1 %; the message names the nearest below and above.
    """
    if first is not None:
        options = [c.option_of(wish(c.profile, first)) for c in problem.candidates]
        if problem.met(options):
            return options

    options = [0] * len(problem.candidates)
    steps = []  # (t at which the option is wished, cost of the layer's first rank, layer, option)
    for index, candidate in enumerate(problem.candidates):
        levels = level(candidate.profile)
        for option, rank in enumerate(candidate.ranks[1:], start=1):
            position = (candidate.ranks[option - 1] if rank is None else rank - 1) or 0
            at = float(levels[min(position, len(levels) - 1)])
            steps.append((at, -candidate.cost(0, "macs"), index, option))
    if problem.fits(options):
        closed = set()
        for _, _, index, option in sorted(steps):
            if index in closed:
                continue
            tried = [*options[:index], option, *options[index + 1 :]]
            if problem.fits(tried):
                options = tried
            else:
                closed.add(index)
    if problem.met(options):
        return options
    above = _next_above(problem, options)
    if above is not None and problem.met(above):
        return above
    raise ValueError(_unreachable(problem, options, above))


def _next_above(problem: Problem, options: list[int]) -> list[int] | None:
    """The cheapest single step up from `options`, or the cheapest options where even these exceed the budget."""
    if not problem.fits(options):
        return options
    raised = [
        [*options[:i], options[i] + 1, *options[i + 1 :]]
        for i, candidate in enumerate(problem.candidates)
        if options[i] + 1 < len(candidate.ranks)
    ]
    what = next(iter(problem.budget.bounds))
    return min(raised, key=lambda o: problem.cost(o, what), default=None)


def _unreachable(problem: Problem, below: list[int], above: list[int] | None) -> str:
    def shares(options: list[int]) -> str:
        return ", ".join(f"{what}={problem.cost(options, what) / problem.dense[what]:.4f}" for what in bounds)

    bounds = problem.budget.bounds
    wanted = ", ".join(f"{what}={bound}" for what, bound in bounds.items())
    if not problem.fits(below):
        return (
            f"the budget {wanted} cannot be reached: the smallest possible is {shares(below)} "
            "(every layer at its lowest rank). Raise the budget, or let more layers be decomposed"
        )
    nearest = f"the nearest below is {shares(below)}"
    nearest += f", the nearest above {shares(above)}" if above else "; nothing lies above"
    return f"the budget {wanted} cannot be met within 1 %: {nearest}. Ask for one of these"
