"""The C step of LC: the rank at which what a layer costs and what it loses balance.

Legend: C cost of a layer, s its singular values, r its rank, lambda the price of a MAC or a weight, mu the weight of
the squared error.
"""

import numpy as np

from lowrank_exp.checks import one_of, positive
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Candidate, Choice, Problem
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.policies.knapsack import knapsack

COSTS = ("macs", "weights")


@declares(why_dense="dense is best for the whole, says {policy}")
def c_step(
    problem: Problem,
    *,
    price: float | None = None,
    mu: float = 2.0,
    cost: str = "macs",
    normalised: bool = False,
) -> dict[str, Rank | Choice | None]:
    r"""The best low-rank approximation of every layer where MACs, or weights, have a price.

    .. math:: r = \arg\min_r \; \lambda C(r) + \frac{\mu}{2} \sum_{i > r} s_i^2

    over the ranks that are cheaper than dense and over dense, which loses nothing; of equally good ones the cheapest.
    The sum goes over all groups. Every layer stands for itself, so a search through its ranks is exact. Under a budget
    the price follows from it: the ranks are those of the least total of the sums, a knapsack, and mu changes nothing.

    Args:
        problem: candidates and budget.
        price: lambda, above 0, of one MAC of one image or one weight; None where a budget decides.
        mu: above 0. The method `lc` raises it from step to step; 2 counts the squared error once.
        cost: what has the price, `macs` or `weights`.
        normalised: divide the sum by that of all squared singular values, so that large weights count no more.

    Raises:
        ValueError: both or neither of price and a budget are given, a number out of range, a decomposition without
            singular values, or no reachable cost meets the budget.

    Source: Idelbayev, Carreira-Perpinan 2020, "Low-rank compression of neural nets: learning the rank of each layer".

    Differs from the paper:
        1. Rank 0, a layer of zeros, is not offered; a layer may stay dense at its dense cost.
        2. A budget in the place of the price.
    """
    if (price is None) == (not problem.budget):
        got = "neither" if price is None else f"price={price} and a budget ({problem.budget.bounds})"
        raise ValueError(f"the c_step policy takes price or a budget (macs, weights), got {got}: set the other to null")
    for name, value in (("price", price), ("mu", mu)):
        if value is None and name == "price":
            continue
        positive(name, value)
    one_of("cost", cost, COSTS)
    if problem.budget:
        return knapsack(problem, metric=lambda layer: -squared_error(layer, normalised))
    return {c.profile.name: _choose_rank(c, price, mu, cost, normalised) for c in problem.candidates}


def squared_error(layer: LayerProfile, normalised: bool = False) -> np.ndarray:
    """What every rung loses, the sum of the squared singular values beyond it, `(rungs,)`.

    Raises:
        ValueError: the layer's decomposition has no singular values.
    """
    if not layer.singular_values.size:
        raise ValueError(
            f"{layer.name}: the c_step policy needs singular values, and {layer.decomposition} has none: take an SVD"
        )
    squared_R = (layer.singular_values.astype(np.float64) ** 2).sum(axis=0)
    beyond_R = np.append(np.cumsum(squared_R[::-1])[::-1], 0.0)  # from rank 0 on
    at_rungs = beyond_R[np.array(layer.ranks)]
    return at_rungs / beyond_R[0] if normalised and beyond_R[0] > 0 else at_rungs


def _choose_rank(candidate: Candidate, price: float, mu: float, cost: str, normalised: bool) -> Rank | None:
    error = squared_error(candidate.profile, normalised)
    lost = [0.0 if rung is None else error[rung - 1] for rung in candidate.rungs]
    totals = [price * candidate.cost(option, cost) + mu / 2 * one for option, one in enumerate(lost)]
    return candidate.ranks[int(np.argmin(totals))]
