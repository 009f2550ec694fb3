"""EVBMF: as many components as stand above the noise, which is estimated from the weight itself."""

import warnings

from lowrank_exp.checks import fraction
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem
from lowrank_exp.rank.evbmf_solution import check_solver, evbmf_solution
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.unfoldings import option_at, rank_of, unfoldings_of


def evbmf(
    problem: Problem, *, solver: str = "global", weaken: float = 1.0, round: str = "up"
) -> dict[str, Rank | None]:
    r"""The EVBMF rank of every unfolding that bounds the rank of a layer's decomposition.

    .. math:: r_l = \lfloor R_l - w \, (R_l - r_l^{\text{EVBMF}}) \rfloor

    R is the full rank of the unfolding and w is `weaken`. An SVD has one unfolding, Tucker-2 one for each of its two
    ranks, a tensor train those between its modes. Where a rank has a single number and several unfoldings, the largest
    counts: of CP and biclustering those of the in and the out channels. Monochromatic filters have as many colours as
    the in unfolding has components. Of a layer with groups (or blocks, or slices), the one with most components
    decides. Where nothing stands above the noise, the EVBMF rank counts as 1, with a warning. A layer without numbers
    (on the meta device) takes the middle one of its ranks.

    Args:
        problem: candidates; their profiles need `unfoldings`.
        solver: of `evbmf_solution`.
        weaken: in (0, 1]; 1 takes the EVBMF rank as it is, 0.5 half of the way to it from the full rank.
        round: where ranks must be multiples of something, the next one `up` or `down`, or the `nearest`.

    Raises:
        ValueError: a budget is given, an option is out of range, or a decomposition has no unfoldings (product
            quantization, whose rank counts centroids).

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
            f"Set {' and '.join(problem.budget.bounds)} to null, or choose another policy"
        )
    check_solver(solver)
    wrong = f"weaken={weaken!r} is not in (0, 1]: 1 takes the EVBMF rank, less comes nearer to the full one"
    fraction("weaken", weaken, wrong)
    return {
        c.profile.name: option_at(c, _choose_rank(c.profile, solver, weaken), problem.multiple, round)
        for c in problem.candidates
    }


def _choose_rank(layer: LayerProfile, solver: str, weaken: float) -> Rank | None:
    """None without numbers."""
    unfoldings = unfoldings_of(layer, "evbmf")
    if unfoldings is None:
        return None
    ranks = []
    for values_GL, long_side in unfoldings:
        full = values_GL.shape[1]
        rank = max(evbmf_solution(values_L, full, long_side, solver).rank for values_L in values_GL)
        if rank == 0:
            warnings.warn(
                f"{layer.name}: nothing in its {full} x {long_side} unfolding stands above the noise (EVBMF rank 0); "
                "counted as 1",
                stacklevel=2,
            )
        ranks.append(int(full - weaken * (full - max(rank, 1))))
    return rank_of(layer, ranks)
