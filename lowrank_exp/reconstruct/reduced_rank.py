r"""Reduced-rank regression: the best linear map of a given rank, from second moments alone.

Legend: G groups, O rows of the map, D columns, R rank, K columns of a weight; S second moment of what the map is
applied to, `(D, D)`; T a map of any rank, U orthonormal columns. A direction whose eigenvalue is not above the floor
was never taken by the data: there nothing is concluded from it.
"""

import torch
from torch import Tensor

CUTOFF = 1e-10  # of the largest eigenvalue of an uncentred moment


def floor_of(second_GDD: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """`cutoff` times the largest eigenvalue of each group's uncentred second moment, `(G,)`."""
    return cutoff * torch.linalg.eigvalsh(second_GDD)[:, -1]


def least_squares(
    start_GOD: Tensor, change_GOD: Tensor, second_GDD: Tensor, floor_G: Tensor, ridge_G: Tensor | float = 0.0
) -> Tensor:
    r"""The linear map that minimises E||t - T x||^2 + lambda ||T - T_0||^2, as a start and a change of it.

    .. math:: T = T_0 + (E[t x^T] - T_0 S) (S + \lambda)^+

    Args:
        start_GOD: T_0, which stays as it is in directions that the data never take.
        change_GOD: E[t x^T] - T_0 S; where it is zero, T is T_0 exactly.
        second_GDD: S = E[x x^T].
        floor_G: eigenvalues of S not above it count as zero.
        ridge_G: lambda.
    """
    values_GD, vectors_GDD = torch.linalg.eigh(second_GDD)
    ridge_G = torch.as_tensor(ridge_G).to(values_GD).expand(len(values_GD))
    inverse_GD = torch.where(values_GD > floor_G[:, None], values_GD + ridge_G[:, None], torch.inf).reciprocal()
    return start_GOD + (change_GOD @ vectors_GDD * inverse_GD[:, None, :]) @ vectors_GDD.mT


def leading(moment_GOO: Tensor, weight_GOK: Tensor, rank: int, floor_G: Tensor) -> Tensor:
    r"""U `(G, O, R)` such that U U^T T is the map of rank R nearest to T.

    .. math:: \min_{rank(X) \le R} E||T x - X x||^2 = tr((I - U U^T) T S T^T)

    These are the leading eigenvectors of T S T^T (Eckart and Young 1936, in the metric of S). If fewer than R of its
    eigenvalues are above the floor, the data do not say what to do with the rest of the rank: it goes to what is left
    of the weight.

    Args:
        moment_GOO: T S T^T, centred or not.
        weight_GOK: what the rest of the rank goes to.
        rank: R, at most O.
        floor_G: eigenvalues not above it count as zero.
    """
    values_GO, vectors_GOO = torch.linalg.eigh((moment_GOO + moment_GOO.mT) / 2)  # rounding made it unsymmetric
    told_GR = values_GO.flip(1)[:, :rank] > floor_G[:, None]
    U_GOR = vectors_GOO.flip(2)[:, :, :rank] * told_GR[:, None, :]
    # Groups whose data fill fewer than R directions: the singular vectors of what U leaves of the weight fill the rest,
    # so that directions first seen after the fit are answered as well as the rank allows.
    for g in (~told_GR.all(dim=1)).nonzero().flatten().tolist():
        W_OK, U_OR, known = weight_GOK[g], U_GOR[g], int(told_GR[g].sum())
        left_OK, s_K, _ = torch.linalg.svd(W_OK - U_OR @ (U_OR.mT @ W_OK), full_matrices=False)
        there_K = s_K > 1e-12 * torch.linalg.matrix_norm(W_OK)  # else its vector may lie in U already
        rest_OK = (left_OK * there_K)[:, : rank - known]
        U_OR[:, known : known + rest_OK.shape[1]] = rest_OK
    return U_GOR


def affine_fit(
    mean_GO: Tensor,
    hat_mean_GO: Tensor,
    cross_covariance_GOO: Tensor,
    covariance_GOO: Tensor,
    weight_GOK: Tensor,
    rank: int,
    floor_G: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""M `(G, O, O)` of rank at most R and b `(G, O)` that minimise E||z - (M y + b)||^2.

    .. math:: b = \bar z - M \bar y, \quad M = U U^T T, \quad T = Cov(z, y) Cov(y)^+

    T is the identity in directions that y never takes. For z = y, M is the projection onto principal components.

    Args:
        mean_GO: the mean of z.
        hat_mean_GO: the mean of y.
        cross_covariance_GOO: Cov(z, y).
        covariance_GOO: Cov(y).
        weight_GOK: the weight whose responses y are, for what the data leave over of the rank (see `leading`).
        rank: R.
        floor_G: eigenvalues not above it count as zero.
    """
    eye_GOO = torch.eye(mean_GO.shape[1], dtype=mean_GO.dtype, device=mean_GO.device).expand_as(covariance_GOO)
    # From the identity as a start: what y never does passes unchanged, instead of being set to 0 without any evidence.
    T_GOO = least_squares(eye_GOO, cross_covariance_GOO - covariance_GOO, covariance_GOO, floor_G)
    U_GOR = leading(T_GOO @ covariance_GOO @ T_GOO.mT, T_GOO @ weight_GOK, rank, floor_G)
    M_GOO = U_GOR @ (U_GOR.mT @ T_GOO)
    return M_GOO, mean_GO - (M_GOO @ hat_mean_GO[:, :, None])[:, :, 0]
