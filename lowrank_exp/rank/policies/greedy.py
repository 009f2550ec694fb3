"""Greedy: the error is spent where it buys most, one drop after the other."""

from lowrank_exp.checks import one_of
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.drops import drop_to_budget
from lowrank_exp.rank.losses import LOSSES, kept, measured_for


@declares(looks_at=measured_for)
def greedy(problem: Problem, *, metric: str = "error") -> dict[str, Rank | None]:
    r"""From the highest options, mostly dense, down: the drop that adds least error for what it saves is taken.

    .. math:: \min_{l, \, r' < r_l} \frac{e_l(r') - e_l(r_l)}{C_l(r_l) - C_l(r')}

    again and again until the budget holds. Drops pass over ranks that lie above the straight line between two others,
    so the sum of errors is the least for its cost as long as no rank is filled up or undone: the relaxation of the
    knapsack, rounded. `knapsack` finds the least sum itself; `energy` with `rule="product"` does the same for products
    of what is kept.

    Args:
        problem: candidates and budget.
        metric: `error`, relative squared errors of the weights, or `response`, of the responses (`with_errors` with
            images).

    Raises:
        ValueError: no budget is given, an unknown metric, a layer without the errors that it needs, or no reachable
            cost meets the budget.

    Source: the greedy rank selection of Zhang, Zou, He, Sun 2015, "Accelerating very deep convolutional networks for
    classification and detection", for a sum of errors in the place of a product of energies.
    """
    if not problem.budget:
        raise ValueError("the greedy policy needs a budget: set macs or weights to a fraction in (0, 1]")
    one_of("metric", metric, LOSSES)
    kept_by_name = {c.profile.name: kept(c.profile, metric) for c in problem.candidates}
    options = drop_to_budget(problem, kept_by_name, relative=False)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}
