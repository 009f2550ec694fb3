r"""What a trained SVD form keeps at each rank: by its own s, or by a fresh SVD of the product.

Legend: G groups, M rows, N columns, R rank of the form; P and Q orthonormal, X and Y those of the small SVD.
"""

import torch
from torch import Tensor

from lowrank_exp.decomposition import SVD
from lowrank_exp.svd_form.layers import SVDForm

SPECTRA = ("resvd", "by_s")


def sorted_svd(form: SVDForm, by: str = "resvd") -> SVD:
    r"""The factors of `form` with values that fall and are not negative, in the order of `decomposition.matrices`.

    `by_s` sorts the absolute values of s in each group and turns the sign into U: what is kept at a rank are the
    entries of s as they were trained, with their columns of U and rows of V. `resvd` takes the SVD of the product,

    .. math:: U \mathrm{diag}(s) = P A, \qquad V^T = Q B, \qquad A B^T = X \mathrm{diag}(\sigma) Y,

    so that `P X`, sigma and `Y Q^T` are it: the best approximation at every rank, whether or not training kept U and V
    orthonormal. Where they are, both give the same.

    Raises:
        ValueError: another `by`.
    """
    with torch.no_grad():
        U_GMR, s_GR, V_GRN = (_numbers(factor) for factor in form.svd)
        if check_spectrum(by) == "by_s":
            order_GR = s_GR.abs().argsort(dim=1, descending=True, stable=True)
            U_GMR, V_GRN = _columns(U_GMR, order_GR), _columns(V_GRN.mT, order_GR).mT
            s_GR = s_GR.gather(1, order_GR)
            return SVD(U_GMR * torch.where(s_GR < 0, -1, 1)[:, None, :], s_GR.abs(), V_GRN)
        P_GMR, A_GRR = torch.linalg.qr(U_GMR * s_GR[:, None, :])
        Q_GNR, B_GRR = torch.linalg.qr(V_GRN.mT)
        X_GRR, S_GR, Y_GRR = torch.linalg.svd(A_GRR @ B_GRR.mT, full_matrices=False)
        return SVD(P_GMR @ X_GRR, S_GR, Y_GRR @ Q_GNR.mT)


def spectrum(form: SVDForm, by: str = "resvd") -> Tensor:
    """The values of `sorted_svd` alone, `(G, R)`."""
    with torch.no_grad():
        U_GMR, s_GR, V_GRN = (_numbers(factor) for factor in form.svd)
        if check_spectrum(by) == "by_s":
            return s_GR.abs().sort(dim=1, descending=True).values
        A_GRR = torch.linalg.qr(U_GMR * s_GR[:, None, :], mode="r").R
        B_GRR = torch.linalg.qr(V_GRN.mT, mode="r").R
        return torch.linalg.svdvals(A_GRR @ B_GRR.mT)


def check_spectrum(by: str) -> str:
    """`by`, if there is such a spectrum.

    Raises:
        ValueError: there is none.
    """
    if by not in SPECTRA:
        raise ValueError(
            f"by must be resvd (a fresh SVD of the product) or by_s (the entries of s, as the paper), got {by!r}"
        )
    return by


def _columns(factor_GMR: Tensor, order_GR: Tensor) -> Tensor:
    return factor_GMR.gather(2, order_GR[:, None, :].expand_as(factor_GMR))


def _numbers(factor: Tensor) -> Tensor:
    return factor if factor.dtype == torch.float64 else factor.float()
