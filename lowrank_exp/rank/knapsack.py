"""Knapsack: the best plan under a budget, where the quality of a plan is a sum over its layers."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import ROUNDING, TOLERANCE, Candidate, Problem, meet
from lowrank_exp.rank.enc_curves import energy_curve, measured_curve
from lowrank_exp.rank.multiple_choice import Solution, solve
from lowrank_exp.rank.profile import LayerProfile

Quality = Callable[[LayerProfile], np.ndarray]


def knapsack(
    problem: Problem, *, metric: str | Quality = "error", limit_seconds: float = 5.0
) -> dict[str, Rank | None]:
    r"""The ranks of the highest total quality that the budget allows.

    .. math:: \max_r \sum_l q_l(r_l) \quad \text{such that} \quad \sum_l c_l(r_l) \le C

    A dense layer has quality 0. The optimum is exact, with several budgets where the search ends within
    `limit_seconds`: then a larger budget never gives a lower quality. The order of layers does not matter.

    A budget counts as met within 1 %. If the optimum leaves more unspent, a budget of 1.01 times as much is tried; if
    that too ends below 0.99 (a dearer plan is no better, or ranks are coarse), the optimum is filled up by single ranks
    until the budget is met.

    Args:
        problem: candidates and budget.
        metric: `error`, minus the squared error of a layer's weight relative to its squared norm; `energy`, log y_p
            of ENC, so that the total is log A_p; `measured`, log y_m, of the layers' sampled accuracies, so that the
            total is log A_m; `sensitivity`, minus what the profile expects the loss to rise (its `sensitivity`,
            `(rungs,)`); or a function from a profile to the qualities of its rungs, `(rungs,)`. A quality of -inf is
            chosen only where nothing else fits.
        limit_seconds: after this the best plan found so far is taken, with a warning that tells how much better another
            one could be.

    Raises:
        ValueError: no budget is given, an option is unknown, a layer does not have what the metric needs, or no
            reachable cost meets the budget.

    Source: Kellerer, Pferschy, Pisinger 2004, "Knapsack problems", chapter 11 (multiple-choice knapsack); y_p and y_m:
    Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC), supplementary material.
    """
    if not problem.budget:
        raise ValueError("the knapsack policy needs a budget: set macs or weights to a fraction in (0, 1]")
    if isinstance(limit_seconds, bool) or not isinstance(limit_seconds, int | float) or not limit_seconds > 0:
        raise ValueError(f"limit_seconds={limit_seconds!r} is no positive number of seconds")
    problem = replace(problem, candidates=tuple(sorted(problem.candidates, key=lambda c: c.profile.name)))
    costs = [_costs(candidate, problem) for candidate in problem.candidates]
    qualities = [_qualities(candidate, metric) for candidate in problem.candidates]
    best: Sequence[int] | None = None
    for times in (1.0, 1.0 + TOLERANCE):
        solution = solve(costs, qualities, _limits(problem, times), limit_seconds=limit_seconds) if costs else None
        if solution is None:
            continue
        _warn_unless_exact(solution, limit_seconds)
        options = solution.options
        if problem.met(options):
            break
        best = best or options
    else:
        options = _filled(problem, best)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _limits(problem: Problem, times: float) -> list[int]:
    """What the candidates may cost, by budget."""
    return [
        math.floor(times * bound * problem.dense[what] * (1 + ROUNDING)) - problem.alone[what]
        for what, bound in problem.budget.bounds.items()
    ]


def _costs(candidate: Candidate, problem: Problem) -> np.ndarray:
    """Costs of the options, `(options, budgets)`."""
    options = range(len(candidate.rungs))
    return np.array([[candidate.cost(o, what) for what in problem.budget.bounds] for o in options], dtype=np.int64)


def _qualities(candidate: Candidate, metric: str | Quality) -> np.ndarray:
    """Qualities of the options, `(options,)`."""
    layer = candidate.profile
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise ValueError(f"metric={metric!r} is not known: {', '.join(_METRICS)}, or a function of a profile")
        metric = _METRICS[metric]
    quality = np.asarray(metric(layer), dtype=np.float64)
    if quality.shape != (layer.rungs,) or np.isnan(quality).any() or (quality == np.inf).any():
        raise ValueError(
            f"{layer.name}: the metric must give a number, or -inf, for each of {layer.rungs} rungs, got {quality}"
        )
    return np.array([0.0 if rung is None else quality[rung - 1] for rung in candidate.rungs])


def _error(layer: LayerProfile) -> np.ndarray:
    return -layer.error


def _energy(layer: LayerProfile) -> np.ndarray:
    return _log(energy_curve(layer), layer)


def _measured(layer: LayerProfile) -> np.ndarray:
    return _log(measured_curve(layer), layer)


def _log(y_R: np.ndarray, layer: LayerProfile) -> np.ndarray:
    """Beyond r_max, where curves end, nothing is gained."""
    with np.errstate(divide="ignore"):
        return np.log(np.append(y_R, np.full(layer.rungs - len(y_R), y_R[-1])))


def _sensitivity(layer: LayerProfile) -> np.ndarray:
    rise = getattr(layer, "sensitivity", None)
    if rise is None or not len(rise):
        raise ValueError(f"{layer.name}: its profile has no sensitivity; take another metric: error, energy")
    return -np.asarray(rise)


_METRICS: dict[str, Quality] = {
    "error": _error,
    "energy": _energy,
    "measured": _measured,
    "sensitivity": _sensitivity,
}


def _warn_unless_exact(solution: Solution, limit_seconds: float) -> None:
    if not solution.exact:
        warnings.warn(
            f"knapsack: the plan found in {limit_seconds:g} s has quality {solution.value:.6g}, and another may have "
            f"up to {solution.bound:.6g}: raise limit_seconds to search on",
            stacklevel=4,
        )


def _filled(problem: Problem, best: Sequence[int] | None) -> list[int]:
    """The best options, where any fit, and as many single ranks more as it takes to meet the budget."""
    best = best or [0] * len(problem.candidates)
    rungs = {c.profile.name: c.rungs[o] for c, o in zip(problem.candidates, best, strict=True)}

    def rung_of(layer: LayerProfile, _: float = 1.0) -> int:
        rung = rungs[layer.name]
        return layer.rungs + 1 if rung is None else rung

    def level(layer: LayerProfile) -> np.ndarray:
        return np.where(np.arange(1, layer.rungs + 1) <= rung_of(layer), 0.0, 1.0)

    return meet(problem, rung_of, level, None)
