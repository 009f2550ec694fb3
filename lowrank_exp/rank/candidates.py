"""Which layers a rank policy decides on, before it is asked."""

import warnings
from collections.abc import Callable, Mapping

from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.rank.allocate import allocate
from lowrank_exp.rank.budget import Budget
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.plan import Plan
from lowrank_exp.rank.problem import problem_of

SETTINGS = ("ranks", "rules", "fixed", "multiple", "over")  # of `allocate`


def candidates(layers: Mapping[str, LayerProfile], rank: Callable[..., Plan]) -> list[str]:
    """The layers that `rank` may decompose, in network order: cheaper at some rank, and not left alone.

    A layer whose rank is set by hand counts, if that is a rank. A budget of time is not looked at: profiles need no
    times for this.

    Args:
        layers: profiles by name.
        rank: a partial of `allocate`; of another function nothing is known, so all layers that get cheaper.

    Raises:
        ValueError: names in ranks or rules that do not exist.
    """
    options = dict(getattr(rank, "keywords", {})) if getattr(rank, "func", None) is allocate else {}
    budget = Budget(**{what: options.get(what) for what in WHAT})
    with warnings.catch_warnings():  # of ranks by hand that cost more than dense; the policy says it
        warnings.simplefilter("ignore")
        problem, planned = problem_of(layers, budget, **{name: options[name] for name in SETTINGS if name in options})
    deciding = {candidate.profile.name for candidate in problem.candidates}
    deciding |= {name for name, layer in planned.items() if layer.rank is not None}
    return [name for name in layers if name in deciding]
