r"""Nonlinear response reconstruction: responses that agree behind the ReLU.

Legend: G groups, P sampled places, O out channels of one group, R rank (d' in the paper); y responses of the original
network, y^ of the network as compressed so far, r the ReLU, M and b the map, z auxiliary responses, lam the penalty.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank_exp.reconstruct.reduced_rank import CUTOFF, affine_fit, floor_of

Schedule = Sequence[tuple[float, int]]  # penalties and for how many iterations each
PAPER: Schedule = ((0.01, 25), (1.0, 25))
CODE: Schedule = ((0.1, 30), (1.0, 20))  # the authors' later code


def z_update(y_map: Tensor, r_y: Tensor, lam: float) -> Tensor:
    r"""The z that minimises each entry's cost, of any shape.

    .. math:: (r(y) - r(z))^2 + \lambda (z - y')^2, \qquad y' = M \hat y + b

    The cheaper of z0 = min(0, y') and z1 = max(0, (lam y' + r(y)) / (lam + 1)).

    >>> z_update(torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 3.0]), lam=1.0).tolist()
    [-2.0, 2.0]
    """
    z0 = y_map.clamp(max=0)
    z1 = ((lam * y_map + r_y) / (lam + 1)).clamp(min=0)
    cost0 = r_y**2 + lam * (z0 - y_map) ** 2
    cost1 = (z1 - r_y) ** 2 + lam * (z1 - y_map) ** 2
    return torch.where(cost0 <= cost1, z0, z1)


def relu_error(y_GPO: Tensor, hat_GPO: Tensor, M_GOO: Tensor, b_GO: Tensor) -> Tensor:
    """sum ||r(y) - r(M y^ + b)||^2 of every group, `(G,)`."""
    return (y_GPO.relu() - _mapped(hat_GPO, M_GOO, b_GO).relu()).square().sum(dim=(1, 2))


def relu_response(
    y_GPO: Tensor,
    hat_GPO: Tensor,
    weight_GOK: Tensor,
    rank: int,
    schedule: Schedule = PAPER,
    cutoff: float = CUTOFF,
) -> tuple[Tensor, Tensor]:
    r"""The map of responses y^ -> M y^ + b, M of rank at most R, that is closest behind the ReLU.

    .. math:: \min_{M, b} \sum ||r(y) - r(M \hat y + b)||^2

    by alternating between z, entry by entry (`z_update`), and M and b, by reduced-rank regression (`affine_fit`), with
    a penalty on ||z - (M y^ + b)||^2; from the linear solution.

    Args:
        y_GPO: responses of the original network.
        hat_GPO: those of the network as compressed so far, at the same places; `y_GPO` where it is symmetric.
        weight_GOK: the layer's weight in the responses' units.
        rank: R.
        schedule: penalties lam and for how many iterations each.
        cutoff: see `linear_response`.

    Returns:
        M `(G, O, O)` and b `(G, O)`.

    Source: Zhang, Zou, He, Sun 2015, "Accelerating very deep convolutional networks", the nonlinear case and the
    asymmetric reconstruction.

    Differs from the paper:
        1. Of all iterations, each group keeps the one with the smallest error (without the penalty); so the result is
           never worse than the linear solution.
    """
    count = y_GPO.shape[1]
    hat_mean_GO = hat_GPO.mean(dim=1)
    # y^ is the same in every iteration, and so are its moments: an iteration costs one product with z.
    centred_GPO = hat_GPO - hat_mean_GO[:, None]
    covariance_GOO = centred_GPO.mT @ centred_GPO / count
    floor_G = floor_of(hat_GPO.mT @ hat_GPO / count, cutoff)

    def regression(z_GPO: Tensor) -> tuple[Tensor, Tensor]:
        mean_GO = z_GPO.mean(dim=1)
        cross_GOO = (z_GPO - mean_GO[:, None]).mT @ centred_GPO / count
        return affine_fit(mean_GO, hat_mean_GO, cross_GOO, covariance_GOO, weight_GOK, rank, floor_G)

    r_y = y_GPO.relu()
    M, b = best_M, best_b = regression(y_GPO)
    y_map = _mapped(hat_GPO, M, b)
    least_G = (r_y - y_map.relu()).square().sum(dim=(1, 2))
    for lam, iterations in schedule:
        for _ in range(iterations):
            M, b = regression(z_update(y_map, r_y, lam))
            y_map = _mapped(hat_GPO, M, b)
            error_G = (r_y - y_map.relu()).square().sum(dim=(1, 2))
            # Groups are fits of their own: each keeps its best iteration, whatever the others do then.
            better_G = error_G < least_G
            least_G = torch.where(better_G, error_G, least_G)
            best_M = torch.where(better_G[:, None, None], M, best_M)
            best_b = torch.where(better_G[:, None], b, best_b)
    return best_M, best_b


def _mapped(hat_GPO: Tensor, M_GOO: Tensor, b_GO: Tensor) -> Tensor:
    return hat_GPO @ M_GOO.mT + b_GO[:, None]
