"""Which budgets can be reached: what the network costs at the cheapest and at the dearest options of its layers."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from lowrank_exp.rank.budget import Budget, Candidate
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import COSTS
from lowrank_exp.rank.problem import problem_of


class Reach(NamedTuple):
    """Fractions of the dense cost, of the layers that the budget counts.

    `lowest`: every layer at its cheapest option. `decomposed`: every layer that may be decomposed is, at the dearest of
    its ranks that are cheaper than dense. `highest`: every layer at its dearest option; 1 where all may stay dense.
    """

    lowest: float
    decomposed: float
    highest: float


def reachable(layers: Mapping[str, LayerProfile], **settings: Any) -> dict[str, Reach]:
    """The bounds of the budgets that `allocate` can meet, by what they are of: macs, weights, bytes, latency.

    Each is that of a budget given alone; of several together, a rank counts only if it is cheaper in all of them. Left
    out is what takes no budget: what some decomposition does not save at any rank, what the network has none of, and
    time where it was not measured.

    Args:
        layers: profiles by name.
        settings: `ranks`, `rules`, `fixed`, `multiple` and `over`, as for `allocate`.

    Raises:
        ValueError: as `allocate` for these arguments.

    >>> import numpy as np
    >>> from lowrank_exp.rank import Cost, Costs, Offer
    >>> offer = Offer("channel_svd", range(1, 9), Costs(np.arange(1, 9) * 15, np.arange(1, 9) * 4))
    >>> reachable({"a": LayerProfile("a", "conv", Cost(100, 10), (offer,))})["macs"]
    Reach(lowest=0.15, decomposed=0.9, highest=1.0)
    """
    with warnings.catch_warnings():  # said once, by allocate
        warnings.simplefilter("ignore")
        dense = problem_of(layers, Budget(), **settings)[0].dense
        offers = [offer for layer in layers.values() for offer in layer.offers]
        budgets = [what for what in COSTS if dense[what] > 0 and all(offer.may_save(what) for offer in offers)]
        return {what: _reach(layers, what, settings) for what in budgets}


def _reach(layers: Mapping[str, LayerProfile], what: str, settings: Mapping[str, Any]) -> Reach:
    problem, _ = problem_of(layers, Budget(**{what: 1.0}), **settings)
    ranks, options = [], []
    for candidate in problem.candidates:
        ranks.append(_costs(candidate, what, decomposed=True))
        options.append(_costs(candidate, what, decomposed=False))

    def share(costs: list[int]) -> float:
        return (problem.alone[what] + sum(costs)) / problem.dense[what]

    return Reach(
        share([min(costs) for costs in options]),
        share([max(costs) for costs in ranks]),
        share([max(costs) for costs in options]),
    )


def _costs(candidate: Candidate, what: str, decomposed: bool) -> list[int]:
    """Of every option, by all decompositions; with `decomposed` of the ranks alone."""
    return [
        one.cost(option, what)
        for one in (candidate, *candidate.others)
        for option, rung in enumerate(one.rungs)
        if rung is not None or not decomposed
    ]
