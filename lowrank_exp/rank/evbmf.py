"""EVBMF: as many components as stand above the noise, which is estimated from the weight itself."""

import math
import warnings
from bisect import bisect_left

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Candidate, Problem
from lowrank_exp.rank.evbmf_solution import check_solver, evbmf_solution
from lowrank_exp.rank.profile import LayerProfile


def evbmf(
    problem: Problem, *, solver: str = "global", weaken: float = 1.0, multiple: int | None = None
) -> dict[str, Rank | None]:
    r"""The EVBMF rank of every unfolding that a layer's decomposition cuts: one for an SVD, two for Tucker-2.

    .. math:: r_l = \lfloor R_l - w \, (R_l - r_l^{\text{EVBMF}}) \rfloor

    R is the full rank and w is `weaken`. Of a layer with groups, the group with most components decides. Where nothing
    stands above the noise, the EVBMF rank counts as 1, with a warning. A layer without numbers (on the meta device)
    takes the middle one of its ranks.

    Args:
        problem: candidates; their profiles need `unfoldings`.
        solver: of `evbmf_solution`.
        weaken: in (0, 1]; 1 takes the EVBMF rank as it is, 0.5 half of the way to it from the full rank.
        multiple: raise ranks to the next multiple of this (8, 16, 32), at most to the full rank.

    Raises:
        ValueError: a budget is given, an option is out of range, or a decomposition has no unfoldings.

    Source: Kim et al. 2016, "Compression of deep convolutional neural networks for fast and low power mobile
    applications". `weaken`: Gusak et al. 2019, "Automated multi-stage compression of neural networks"
    (MUSCO), with the rounding of its code.

    Differs from MUSCO:
        1. Its code leaves layers of 8 channels or fewer (of 20 in an earlier version) and those with an EVBMF rank of 0
           at the full rank, and takes no rank below 8; here rules do that.
    """
    if problem.budget:
        raise ValueError(
            f"the evbmf policy takes no budget, got {problem.budget.bounds}: the noise decides. "
            "Set macs and weights to null, or choose another policy"
        )
    check_solver(solver)
    if isinstance(weaken, bool) or not isinstance(weaken, int | float) or not 0 < weaken <= 1:
        raise ValueError(
            f"weaken={weaken!r} is not in (0, 1]: 1 takes the EVBMF rank, less comes nearer to the full one"
        )
    if multiple is not None and (isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1):
        raise ValueError(f"multiple={multiple!r} is no positive integer: 8, 16, or null for ranks as they are")
    return {c.profile.name: _option(c, _wished(c.profile, solver, weaken, multiple)) for c in problem.candidates}


def _wished(layer: LayerProfile, solver: str, weaken: float, multiple: int | None) -> Rank | None:
    """One rank for every unfolding; None without numbers."""
    if not layer.unfoldings:
        raise ValueError(
            f"{layer.name}: the evbmf policy needs the singular values of the matrices that a decomposition cuts, and "
            f"{layer.decomposition} has none. Set its rank by hand, leave the layer alone, or choose another policy"
        )
    ranks = []
    for values_GL, long_side in layer.unfoldings:
        full = values_GL.shape[1]
        if full == 0:
            return None
        found = max(evbmf_solution(values_L, full, long_side, solver).rank for values_L in values_GL)
        if found == 0:
            warnings.warn(
                f"{layer.name}: nothing in its {full} x {long_side} unfolding stands above the noise (EVBMF rank 0); "
                "counted as 1",
                stacklevel=2,
            )
        rank = int(full - weaken * (full - max(found, 1)))
        ranks.append(min(full, rank if multiple is None else multiple * math.ceil(rank / multiple)))
    return ranks[0] if len(ranks) == 1 else tuple(ranks)


def _option(candidate: Candidate, wished: Rank | None) -> Rank | None:
    """The wished rank within what rules allow; dense where it is not cheaper and dense is allowed."""
    layer, options = candidate.profile, candidate.ranks
    if wished is None:
        return options[(len(options) - 1) // 2]
    if isinstance(wished, int):
        return options[candidate.option_of(bisect_left(layer.ranks, wished) + 1)]
    ranks = [rank for rank in options if rank is not None]
    dense_allowed = options[-1] is None
    least = (1,) * len(wished) if ranks[0] == layer.ranks[0] else ranks[0]
    most = layer.full_rank if dense_allowed else [max(ones) for ones in zip(*ranks, strict=True)]
    wished = tuple(int(np.clip(*of)) for of in zip(wished, least, most, strict=True))
    what = layer.saves[0]
    if getattr(layer.cost(wished), what) < getattr(layer, what):
        return wished
    return None if dense_allowed else ranks[-1]
