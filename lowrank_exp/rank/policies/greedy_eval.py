"""Greedy evaluation: every layer at the lowest rank at which it alone leaves the network accurate enough.

Legend: a_l(r) accuracy of the network with layer l alone cut to rank r, relative to that at its highest sampled rank;
T what it must reach. Arrays: N sampled ranks of a layer, R rungs.
"""

import numpy as np

from lowrank_exp.checks import positive
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.enc.curves import samples
from lowrank_exp.rank.layer_profile import LayerProfile

Table = dict[str, tuple[np.ndarray, np.ndarray]]  # by layer: rungs, and the accuracy at each, rising


@declares(looks_at="accuracy")
def greedy_eval(problem: Problem, *, threshold: float | None = None) -> dict[str, Rank | None]:
    r"""The lowest sampled ranks that reach a threshold of accuracy, or the highest threshold that a budget allows.

    .. math:: r_l = \min \{ r \text{ sampled} : \max_{r' \le r} a_l(r') \ge T \}

    A higher rank counts at least as much as a lower one. A layer of which no sampled rank reaches T stays dense.

    Args:
        problem: candidates and budget; the profiles need sampled accuracies, as `with_accuracy` measures them.
        threshold: T, above 0, relative accuracy: 0.99 loses a hundredth of it by a layer alone. None where a budget
            decides.

    Raises:
        ValueError: both or neither of threshold and a budget are given, the threshold is not a positive number, a layer
            has no samples, or no reachable cost meets the budget.

    Source: AIMET (Qualcomm), its greedy selection of compression ratios, user guide and code.

    Differs from the source:
        1. What the highest threshold leaves of the budget, if more than 1 %, is filled up by single ranks, those of the
           lowest accuracy first. Between sampled ranks, and from (0, 0) to the first, accuracy lies on straight lines.
           Where the lowest sampled ranks exceed the budget, these lines decide alone.
        2. Scores are made to rise by their running maximum; there, by a fitted polynomial, or not at all.
        3. The highest threshold is found exactly; there, by bisection until the ratio is within 0.001.
        4. A layer's accuracy is relative to that at its own highest sampled rank.
    """
    if (threshold is None) == (not problem.budget):
        got = "neither" if threshold is None else f"threshold={threshold} and a budget ({problem.budget.bounds})"
        raise ValueError(
            f"the greedy_eval policy takes a threshold or a budget (macs, weights), got {got}: set the other to null"
        )
    table = {c.profile.name: _make_rising(c.profile) for c in problem.candidates}
    if threshold is None:
        options = _meet_budget(problem, table)
    else:
        wrong = f"threshold={threshold!r} is not a positive number: 0.99 keeps 99 % of the accuracy"
        positive("threshold", threshold, wrong)
        options = _choose_options(problem, table, threshold)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _make_rising(layer: LayerProfile) -> tuple[np.ndarray, np.ndarray]:
    rungs_N, accuracy_N = samples(layer)
    return rungs_N, np.maximum.accumulate(accuracy_N)


def _find_lowest(layer: LayerProfile, table: Table, T: float) -> int:
    """The lowest sampled rung that reaches T; the one after the last where none does."""
    rungs_N, accuracy_N = table[layer.name]
    place = int(np.searchsorted(accuracy_N, T * (1 - 1e-12)))
    return int(rungs_N[place]) if place < len(rungs_N) else layer.rungs + 1


def _choose_options(problem: Problem, table: Table, T: float) -> list[int]:
    return [c.option_of(_find_lowest(c.profile, table, T)) for c in problem.candidates]


def _meet_budget(problem: Problem, table: Table) -> list[int]:
    """The options at the highest threshold that fits, and single ranks more where they leave more than 1 %."""
    T = _find_highest(problem, table)

    def rung_at(layer: LayerProfile, T: float) -> int:
        return _find_lowest(layer, table, T)

    def level(layer: LayerProfile) -> np.ndarray:
        rungs_N, accuracy_N = table[layer.name]
        below_R = np.arange(layer.rungs)
        accuracy_R = np.interp(below_R, np.append(0, rungs_N), np.append(0, accuracy_N))
        return accuracy_R if T is None else np.where(below_R < _find_lowest(layer, table, T), 0.0, accuracy_R)

    return meet(problem, rung_at, level, T)


def _find_highest(problem: Problem, table: Table) -> float | None:
    """The highest threshold that fits the budget; None where the lowest sampled ranks do not."""
    thresholds = np.unique(np.concatenate([[0.0], *(accuracy_N for _, accuracy_N in table.values())]))
    low, high = -1, len(thresholds)  # fits, does not fit
    while high - low > 1:
        middle = (low + high) // 2
        fits = problem.fits(_choose_options(problem, table, thresholds[middle]))
        low, high = (middle, high) if fits else (low, middle)
    return float(thresholds[low]) if low >= 0 else None
