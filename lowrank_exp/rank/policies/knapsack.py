"""Knapsack: the best plan under a budget, where the quality of a plan is a sum over its layers."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lowrank_exp.checks import positive
from lowrank_exp.rank.budget import ROUNDING, TOLERANCE, Candidate, Choice, Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.enc.curves import energy_curve, measured_curve
from lowrank_exp.rank.knapsack.multiple_choice import Solution, solve
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.losses import LOOKS_AT, losses

Quality = Callable[[LayerProfile], np.ndarray]
_MEASURED = LOOKS_AT | {"measured": "accuracy", "sensitivity": "sensitivity"}  # what metrics look at
_COMPARE = ("error", "response", "sensitivity")  # between the decompositions of a layer
Option = tuple[Candidate, int]  # one of the decompositions of a layer, and an option of it


def _measured_for(options: Mapping[str, Any]) -> list[str]:
    """What a metric of ours is made of; a function is of what profiles have already."""
    metric = options["metric"]
    return [_MEASURED[metric]] if isinstance(metric, str) and metric in _MEASURED else []


@declares(looks_at=_measured_for, chooses=True, why_dense="dense is best for the whole, says {policy}")
def knapsack(
    problem: Problem, *, metric: str | Quality = "error", limit_seconds: float = 5.0
) -> dict[str, Choice | None]:
    r"""The ranks of the highest total quality that the budget allows, and of several decompositions the best.

    .. math:: \max_r \sum_l q_l(r_l) \quad \text{such that} \quad \sum_l c_l(r_l) \le C

    A dense layer has quality 0. The optimum is exact, with several budgets where the search ends within
    `limit_seconds`: then a larger budget never gives a lower quality. The order of layers does not matter.

    A budget counts as met within 1 %. If the optimum leaves more unspent, a budget of 1.01 times as much is tried; if
    that too ends below 0.99 (a dearer plan is no better, or ranks are coarse), the best plan between 0.99 and 1.01 is
    taken. With a budget of time the optimum is taken, whatever it leaves: a slower plan would be no better.

    Args:
        problem: candidates and budget.
        metric: `error`, minus the squared error of a layer's weight relative to its squared norm, the reached one
            where it was measured (`with_errors`; by others an SVD looks better than it is beside Tucker-2 and CP);
            `response`, minus the response error (`with_errors` with images); `energy`, log y_p of ENC, so that the
            total is log A_p; `measured`, log y_m, of the layers' sampled accuracies, so that the total is log A_m;
            `sensitivity`, minus what the profile expects the loss to rise (its `sensitivity`, `(rungs,)`); or a
            function from a profile to the qualities of its rungs, `(rungs,)`. A quality of -inf is chosen only where
            nothing else fits. Between decompositions of a layer only `error`, `response`, `sensitivity` and functions
            compare.
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
    wrong = f"limit_seconds={limit_seconds!r} is not a positive number of seconds"
    positive("limit_seconds", limit_seconds, wrong, infinite=True)
    problem = replace(problem, candidates=tuple(sorted(problem.candidates, key=lambda c: c.profile.name)))
    quality = _metric(metric, problem)
    offers = [_list_options(candidate) for candidate in problem.candidates]
    costs = [_costs(options, problem) for options in offers]
    qualities = [_qualities(options, quality) for options in offers]
    best: list[Option] | None = None
    for times in (1.0, 1.0 + TOLERANCE):
        solution = solve(costs, qualities, _limits(problem, times), limit_seconds=limit_seconds) if costs else None
        if solution is None:
            continue
        _warn_unless_exact(solution, limit_seconds)
        plan = [of[o] for of, o in zip(offers, solution.options, strict=True)]
        if _with_chosen(problem, plan).kept([option for _, option in plan]):
            break
        best = best or plan
    else:
        solution = _solve_to_meet(costs, qualities, problem, limit_seconds) if costs else None
        if solution is None:
            plan = _fill_up(problem, best)
        else:
            _warn_unless_exact(solution, limit_seconds)
            plan = [of[o] for of, o in zip(offers, solution.options, strict=True)]
    return {
        c.profile.name: None if (rank := c.ranks[option]) is None else Choice(c.profile, rank) for c, option in plan
    }


def _list_options(candidate: Candidate) -> list[Option]:
    """All options of a layer, by every decomposition; dense once, last."""
    every = (candidate, *candidate.others)
    ranks = [(one, o) for one in every for o, rung in enumerate(one.rungs) if rung is not None]
    return ranks + [(candidate, len(candidate.rungs) - 1)] * (candidate.rungs[-1] is None)


def _with_chosen(problem: Problem, plan: Sequence[Option]) -> Problem:
    """The problem with the decompositions that were chosen and no other."""
    return replace(problem, candidates=tuple(replace(one, others=()) for one, _ in plan))


def _solve_to_meet(
    costs: Sequence[np.ndarray], qualities: Sequence[np.ndarray], problem: Problem, limit_seconds: float
) -> Solution | None:
    """The best solution that meets the budget: above 1.01 of no bound, and not below 0.99 of one of them."""
    highest, solutions = _limits(problem, 1.0 + TOLERANCE), []
    for place, (what, bound) in enumerate(problem.budget.bounds.items()):
        least = math.ceil((1 - TOLERANCE) * bound * problem.dense[what] * (1 - ROUNDING)) - problem.alone[what]
        # What a layer saves of its dearest option is one more cost: at most so much may be saved altogether.
        most = [int(of_layer[:, place].max()) for of_layer in costs]
        saved = [top - of_layer[:, place, None] for top, of_layer in zip(most, costs, strict=True)]
        both = [np.hstack(pair) for pair in zip(costs, saved, strict=True)]
        solutions.append(solve(both, qualities, [*highest, sum(most) - least], limit_seconds=limit_seconds))
    return max((one for one in solutions if one is not None), key=lambda one: one.value, default=None)


def _limits(problem: Problem, times: float) -> list[int]:
    """What the candidates may cost, by budget."""
    return [
        math.floor(times * bound * problem.dense[what] * (1 + ROUNDING)) - problem.alone[what]
        for what, bound in problem.budget.bounds.items()
    ]


def _costs(offers: Sequence[Option], problem: Problem) -> np.ndarray:
    """Costs of the options, `(options, budgets)`."""
    return np.array([[one.cost(o, what) for what in problem.budget.bounds] for one, o in offers], dtype=np.int64)


def _metric(metric: str | Quality, problem: Problem) -> Quality:
    if not isinstance(metric, str):
        return metric
    if metric not in _METRICS:
        raise ValueError(f"metric={metric!r} is not known: {', '.join(_METRICS)}, or a function of a profile")
    if metric not in _COMPARE and (several := [c for c in problem.candidates if c.others]):
        raise ValueError(
            f"metric={metric!r} does not compare between the decompositions of {several[0].profile.name}: take "
            f"{', '.join(_COMPARE)}, or give one decomposition"
        )
    return _METRICS[metric]


def _qualities(offers: Sequence[Option], metric: Quality) -> np.ndarray:
    """Qualities of the options, `(options,)`."""
    by_rung = {}
    for layer in {id(one.profile): one.profile for one, _ in offers}.values():
        quality = np.asarray(metric(layer), dtype=np.float64)
        if quality.shape != (layer.rungs,) or np.isnan(quality).any() or (quality == np.inf).any():
            raise ValueError(
                f"{layer.name}: the metric must give a number, or -inf, for each of {layer.rungs} rungs, got {quality}"
            )
        by_rung[id(layer)] = quality
    rungs = [(by_rung[id(one.profile)], one.rungs[o]) for one, o in offers]
    return np.array([0.0 if rung is None else quality[rung - 1] for quality, rung in rungs])


def _error(layer: LayerProfile) -> np.ndarray:
    return -losses(layer, "error")


def _response(layer: LayerProfile) -> np.ndarray:
    return -losses(layer, "response")


def _energy(layer: LayerProfile) -> np.ndarray:
    return _log(energy_curve(layer), layer)


def _measured(layer: LayerProfile) -> np.ndarray:
    return _log(measured_curve(layer), layer)


def _log(y_R: np.ndarray, layer: LayerProfile) -> np.ndarray:
    """Beyond r_max, where curves end, nothing is gained."""
    with np.errstate(divide="ignore"):
        return np.log(np.append(y_R, np.full(layer.rungs - len(y_R), y_R[-1])))


def _sensitivity(layer: LayerProfile) -> np.ndarray:
    if not len(layer.sensitivity):
        raise ValueError(
            f"{layer.name}: its profile has no sensitivity; take another metric (error, energy), or measure it by "
            "lowrank_exp.with_sensitivity"
        )
    return -layer.sensitivity


_METRICS: dict[str, Quality] = {
    "error": _error,
    "energy": _energy,
    "measured": _measured,
    "response": _response,
    "sensitivity": _sensitivity,
}


def _warn_unless_exact(solution: Solution, limit_seconds: float) -> None:
    if not solution.exact:
        warnings.warn(
            f"knapsack: the plan found in {limit_seconds:g} s has quality {solution.value:.6g}, and another may have "
            f"up to {solution.bound:.6g}: raise limit_seconds to search on",
            stacklevel=4,
        )


def _fill_up(problem: Problem, best: Sequence[Option] | None) -> list[Option]:
    """The best options, where any fit, and as many single ranks more as it takes to meet the budget."""
    what = next(iter(problem.budget.bounds))
    cheapest = [min((c, *c.others), key=lambda one: one.cost(0, what)) for c in problem.candidates]
    best = best or [(candidate, 0) for candidate in cheapest]
    problem = _with_chosen(problem, best)
    rungs = {one.profile.name: one.rungs[o] for one, o in best}

    def rung_of(layer: LayerProfile, _: float = 1.0) -> int:
        rung = rungs[layer.name]
        return layer.rungs + 1 if rung is None else rung

    def level(layer: LayerProfile) -> np.ndarray:
        return np.where(np.arange(1, layer.rungs + 1) <= rung_of(layer), 0.0, 1.0)

    return list(zip(problem.candidates, meet(problem, rung_of, level, None), strict=True))
