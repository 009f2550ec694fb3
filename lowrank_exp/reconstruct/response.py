r"""Linear response reconstruction: responses lie close to an affine subspace.

Legend: G groups, O out channels of one group, R rank (d' in the paper); y responses of the original network, y^ of the
network as compressed so far, M and b the map between them.
"""

from torch import Tensor

from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.reduced_rank import CUTOFF, affine_fit, floor_of


def linear_response(moments: Moments, weight_GOK: Tensor, rank: int, cutoff: float = CUTOFF) -> tuple[Tensor, Tensor]:
    r"""The map of responses y -> M y + b with M of rank at most R.

    .. math:: \min_{M, b} E||y - (M \hat y + b)||^2

    Symmetric (y^ = y): M = U U^T by principal components of the responses, b = ybar - M ybar.

    Args:
        moments: of the responses, bias included.
        weight_GOK: the weight of the layer.
        rank: R.
        cutoff: of the largest eigenvalue of E[y^ y^^T]; directions below it count as never taken.

    Returns:
        M `(G, O, O)` and b `(G, O)`.

    Source: Zhang, Zou, He, Sun 2015, "Accelerating very deep convolutional networks", the linear case; its
    asymmetric version for y^ other than y.
    """
    return affine_fit(
        moments.mean_GD,
        moments.hat_mean_GD,
        moments.cross_covariance_GDD(),
        moments.covariance_GDD(),
        weight_GOK,
        rank,
        floor_of(moments.second_GDD, cutoff),
    )
