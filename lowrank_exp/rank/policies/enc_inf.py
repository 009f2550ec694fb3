"""ENC-Inf: of the rank sets that ENC-Model puts first, the one that scores best in the network itself."""

import math
import warnings
from collections.abc import Callable

from lowrank_exp.checks import whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.policies.enc_model import enc_candidates, measured_curves


@declares(looks_at=lambda options: ["score", *measured_curves(options)])
def enc_inf(
    problem: Problem,
    *,
    score: Callable[[dict[str, Rank | None]], float],
    candidates: int = 40,
    metric: str = "A_c",
    space: float = 0.1,
    margin: float = 0.005,
    density: float | None = None,
    first: str = "map",
    sub_groups: int | None = None,
    curve: str | None = None,
) -> dict[str, Rank | None]:
    """The highest score among the first rank sets of `enc_candidates`; at ties the higher metric.

    Where there is one rank set alone, it is taken, with a warning.

    Args:
        problem: candidates and budget.
        score: of a rank set, by layer name (None: dense); higher is better. The validation accuracy of the network
            with these ranks, without fine-tuning.
        candidates: how many rank sets are scored, at most; the authors take 40 for VGG-16 and 20 for ResNet-56.
        metric: `space`, `margin`, `density`, `first`, `sub_groups` and `curve` too are those of `enc_candidates`.

    Raises:
        ValueError: as `enc_candidates`, or a score is not a number.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC).
    """
    if not callable(score):
        raise ValueError(f"enc_inf needs a function score(ranks) -> validation accuracy, got {score!r}")
    wrong = f"candidates={candidates!r} is not a number of rank sets: 40 scores the best 40"
    whole("candidates", candidates, message=wrong)
    options = {"space": space, "margin": margin, "density": density, "first": first}
    sets = enc_candidates(problem, metric=metric, sub_groups=sub_groups, curve=curve, **options)
    if len(sets) == 1:
        warnings.warn(
            "enc_inf: one rank set alone is near the budget, ENC-Map's, so there is nothing to choose from: raise "
            f"space ({space:g}) or margin ({margin:g}), or take another budget",
            stacklevel=2,
        )
    best, highest = sets[0], -math.inf
    for place in range(min(candidates, len(sets))):
        ranks = sets[place]
        if math.isnan(scored := float(score(dict(ranks)))):
            raise ValueError(f"the score of rank set {place + 1} is not a number; the ranks are {ranks}")
        if scored > highest:
            best, highest = ranks, scored
    return best
