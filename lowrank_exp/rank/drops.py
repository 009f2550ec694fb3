"""Greedy selection: from the highest options down, always by the drop that loses least for what it saves.

Legend: K(o) what a layer keeps at option o, 1 if dense, C cost. Arrays: O options of a layer, R rungs, W bounds of the
budget.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from lowrank_exp.rank.budget import ROUNDING, Candidate, Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile

EQUAL = 1e-9  # gains per cost that differ by less, relatively, count as equal


def drop_to_budget(problem: Problem, kept: Mapping[str, np.ndarray], relative: bool) -> list[int]:
    r"""The options that the cheapest drops leave when the budget holds.

    .. math:: \min_{l, \, o' < o_l} \frac{K_l(o_l) - K_l(o')}{C_l(o_l) - C_l(o')}

    A drop may pass over several options: the highest that is cheaper than dense often saves next to nothing. Where K
    is concave in cost it passes over none. Given several bounds, a cost is the sum of its shares of those that are
    still exceeded. Where the last drop leaves more than 1 % of the budget, drops are undone, last ones first, rank by
    rank, as far as the budget allows.

    Args:
        problem: candidates and budget.
        kept: K at the rungs of every candidate, `(rungs,)`, by name; rising, at most 1.
        relative: what a drop loses is divided by K before it, so that products count and not sums.

    Raises:
        ValueError: no reachable cost meets the budget.
    """
    dropped = _drop_greedily(problem, kept, relative)
    levels = {c.profile.name: _at_rungs(c, of_O) for c, of_O in zip(problem.candidates, dropped, strict=True)}

    def rung_at(layer: LayerProfile, t: float) -> int:
        return int(np.count_nonzero(levels[layer.name] <= t))

    return meet(problem, rung_at, lambda layer: levels[layer.name], 0.0)


def _drop_greedily(problem: Problem, kept: Mapping[str, np.ndarray], relative: bool) -> list[np.ndarray]:
    """Of every candidate, 1 / the number of the drop that took an option away, 0 where it stays, `(O,)`."""
    bounds = problem.budget.bounds
    limits = [bound * problem.dense[what] * (1 + ROUNDING) for what, bound in bounds.items()]
    spent = [problem.cost([len(c.rungs) - 1 for c in problem.candidates], what) for what in bounds]
    cost_LOW = [_costs(candidate, bounds) for candidate in problem.candidates]
    K_LO = [_at_options(c, kept[c.profile.name], 1.0) for c in problem.candidates]
    order_LO = [np.zeros(len(c.rungs)) for c in problem.candidates]
    top_L = [len(c.rungs) - 1 for c in problem.candidates]
    number = 0
    while over := [w for w, limit in enumerate(limits) if spent[w] > limit]:
        drops = []
        for index, (candidate, top) in enumerate(zip(problem.candidates, top_L, strict=True)):
            cost_O = (cost_LOW[index][: top + 1, over] / np.array(limits)[over]).sum(1)
            steps = _list_drops(cost_O, K_LO[index][: top + 1], relative)
            drops += [(ratio, candidate.profile.name, -high, low, index) for ratio, high, low in steps]
        for _, _, _, low, index in sorted(drops):
            number += 1
            saved_W = cost_LOW[index][top_L[index]] - cost_LOW[index][low]
            spent = [s - saved for s, saved in zip(spent, saved_W.tolist(), strict=True)]
            order_LO[index][low + 1 : top_L[index] + 1] = 1 / number
            top_L[index] = low
            if any(spent[w] <= limits[w] for w in over):
                break
        else:  # every layer is at its cheapest
            break
    return order_LO


def _costs(candidate: Candidate, bounds: Iterable[str]) -> np.ndarray:
    """What the options cost, `(O, W)`."""
    layer = candidate.profile
    return np.stack([_at_options(candidate, getattr(layer, f"rank_{w}"), getattr(layer, w)) for w in bounds], axis=1)


def _at_options(candidate: Candidate, of_R: np.ndarray, of_dense: float) -> np.ndarray:
    """Of numbers for the rungs and for dense, those of the options, `(O,)`."""
    places = [of_R.size if rung is None else rung - 1 for rung in candidate.rungs]
    return np.append(of_R, of_dense)[places]


def _list_drops(cost_O: np.ndarray, K_O: np.ndarray, relative: bool) -> list[tuple[float, int, int]]:
    """The drops from the last option to the first: what is lost for cost saved, which rises, and both options."""
    hull = []  # of K over cost, from above
    for option, (cost, K) in enumerate(zip(cost_O.tolist(), K_O.tolist(), strict=True)):
        while len(hull) > 1:
            (_, cost_a, K_a), (_, cost_b, K_b) = hull[-2:]
            if (K_b - K_a) * (cost - cost_b) >= (K - K_b) * (cost_b - cost_a) * (1 - EQUAL):
                break
            hull.pop()
        hull.append((option, cost, K))
    steps, least = [], 0.0
    for (low, cost_a, K_a), (high, cost_b, K_b) in zip(hull[-2::-1], hull[:0:-1], strict=True):
        lost = max(0.0, K_b - K_a)
        lost = lost / K_b if relative and lost else lost
        saved = cost_b - cost_a
        ratio = lost / saved if saved > 0 else np.inf if lost > 0 else 0.0
        least = max(least, ratio)
        steps.append((least, high, low))
    return steps


def _at_rungs(candidate: Candidate, of_O: np.ndarray) -> np.ndarray:
    """A number of every option, at its rung and those below that are not options; dense last, `(rungs + 1,)`."""
    rungs = [candidate.profile.rungs + 1 if rung is None else rung for rung in candidate.rungs]
    rungs[-1] = candidate.profile.rungs + 1
    return np.repeat(of_O, np.diff([0, *rungs]))
