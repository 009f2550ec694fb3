"""The thin SVD of a batch of matrices by way of their smaller Gram matrix, several times faster than LAPACK's.

Legend: G matrices, M rows, N columns, R = min(M, N); W the matrices, with M <= N (the others are transposed), U their
left singular vectors, L = U^T W the rows of W in the basis U.
"""

import numpy as np
import torch
from torch import Tensor

# A Gram matrix holds squares, so its eigenvectors are sharp for singular values above about sqrt(eps) of the largest
# one. Values below this share of the largest are left to a Gram matrix of their own.
_SHARP = {torch.float32: 2e-2, torch.float64: 1e-4}
# Rows of a Gram matrix computed at a time, each block from its diagonal on.
_BLOCK = 128
# Matrices of up to so many entries are left to LAPACK, which is faster there.
_SMALL = 20_000


def gram_svd(W_GMN: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""The thin SVD `W = U diag(S) V` of every matrix: `U_GMR`, `S_GR` (descending) and `V_GRN`; R = `rank` at most.

    .. math:: W W^T = U \Lambda U^T, \qquad L = U^T W, \qquad s_r = \|l_r\|, \qquad v_r = l_r / s_r

    Because U is orthonormal, `U L` is W whatever the accuracy of the eigenvalues, and what a truncation leaves out is
    the norm of the rows of L left out. Rows too small for the Gram matrix of all (it squares) are made orthogonal to
    the larger ones and turned by a Gram matrix of their own, until none are left: the truncation error at every rank is
    that of LAPACK up to rounding. Where a singular value is zero or rounding, the vector on the longer side is zero, or
    of length one and not orthogonal to the others; `U diag(S) V` is W all the same.

    Args:
        W_GMN: matrices of float32 or float64, of any scale and rank, finite.
        rank: how many of the largest singular values are wanted; None: all. What the others need is not computed.

    >>> W = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
    >>> U, S, V = gram_svd(W)
    >>> S.tolist(), torch.equal(U * S @ V, W)
    ([[4.0, 3.0]], True)
    """
    if W_GMN.is_meta or W_GMN[0].numel() <= _SMALL:
        U_GMR, S_GR, V_GRN = torch.linalg.svd(W_GMN, full_matrices=False)
        return U_GMR[..., :rank], S_GR[:, :rank], V_GRN[:, :rank]
    if W_GMN.shape[1] > W_GMN.shape[2]:
        U_GNR, S_GR, V_GRM = gram_svd(W_GMN.mT, rank)
        return V_GRM.mT, S_GR, U_GNR.mT
    gram_GMM, exponent_G = _gram(W_GMN), None
    if not _in_range(gram_GMM):
        W_GMN, exponent_G = _scale(W_GMN)
        gram_GMM = _gram(W_GMN)
    U_GMM, L_GMN, S_GM = _rotate(W_GMN, gram_GMM, rank)
    if (S_GM.diff(dim=1) > 0).any():
        S_GM, order_GM = S_GM.sort(dim=1, descending=True, stable=True)
        U_GMM = U_GMM.gather(2, order_GM[:, None, :].expand_as(U_GMM))
        L_GMN = L_GMN.gather(1, order_GM[:, :, None].expand_as(L_GMN))
    V_GMN = L_GMN.div_(torch.where(S_GM > 0, S_GM, 1)[:, :, None])
    return U_GMM, S_GM if exponent_G is None else torch.ldexp(S_GM, exponent_G[:, None]), V_GMN


def gram_singular_values(W_GMN: Tensor) -> Tensor:
    """The singular values of every matrix, `(G, R)`, descending: roots of the eigenvalues of the Gram matrix.

    Of float32 matrices the Gram matrix is float64, whose squaring leaves more digits than float32 has. Long matrices
    are spared that where float32 is sharp for all values: each is right to 1e-5 of the largest, and mostly to 1e-6.
    Float64 matrices go to LAPACK.
    """
    if W_GMN.is_meta or W_GMN.dtype == torch.float64:
        return torch.linalg.svdvals(W_GMN)
    if W_GMN.shape[1] > W_GMN.shape[2]:
        W_GMN = W_GMN.mT
    S_GM = _sharp_values(W_GMN)
    return _roots(_gram(W_GMN.double())).to(W_GMN.dtype) if S_GM is None else S_GM


def channel_unfoldings(W_GOIK: Tensor) -> tuple[tuple[np.ndarray, int], ...]:
    """The in and the out unfolding of kernels `(G, O, I, K)`: `(I, O K)` and `(O, I K)` of each, see `unfolded`."""
    return unfolded(W_GOIK.transpose(1, 2).flatten(2)), unfolded(W_GOIK.flatten(2))


def unfolded(W_GMN: Tensor) -> tuple[np.ndarray, int]:
    """The singular values of every matrix, `(G, R)`, descending, and the longer side."""
    return gram_singular_values(W_GMN).cpu().numpy(), max(W_GMN.shape[1:])


def _in_range(gram_GMM: Tensor) -> bool:
    """Whether the squares are far enough from overflow and underflow, in every matrix."""
    squares_G = gram_GMM.diagonal(dim1=1, dim2=2).amax(dim=1)
    return bool(((squares_G > 1e-12) & (squares_G < 1e12)).all())


def _scale(W_GMN: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices, divided by a power of two each that brings the largest entry near one, and its exponents `(G,)`."""
    exponent_G = W_GMN.abs().amax(dim=(1, 2)).frexp().exponent.clamp(-126, 126)
    return torch.ldexp(W_GMN, -exponent_G[:, None, None]), exponent_G


def _rotate(W_GMN: Tensor, gram_GMM: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """From W and `W W^T`: orthonormal `U_GMM`, `L_GMN = U^T W` of orthogonal rows nearly in falling order, their norms.

    The first `rank` rows alone, where the Gram matrix of all is sharp for them.
    """
    M = W_GMN.shape[1]
    sharp, rounding = _SHARP[W_GMN.dtype], 4 * torch.finfo(W_GMN.dtype).eps
    U_GMM = _eigenvectors(gram_GMM)
    if rank is not None and rank < M:
        U_GMR = U_GMM[:, :, :rank]
        L_GRN = U_GMR.mT @ W_GMN
        S_GR = _norms(L_GRN)
        if (sharp * S_GR[:, :1] <= S_GR).all():
            return U_GMR, L_GRN, S_GR
        U_GMM, L_GMN, S_GM = _rotate(W_GMN, gram_GMM, None)
        return U_GMM[:, :, :rank], L_GMN[:, :rank], S_GM[:, :rank]
    L_GMN = U_GMM.mT @ W_GMN
    start = 0
    while True:
        S_GM = _norms(L_GMN)
        blurred_M = (S_GM[:, start:] < sharp * S_GM[:, start, None]).any(dim=0)
        start += int(blurred_M.int().argmax()) if blurred_M.any() else M
        is_rounding_GM = S_GM.le(rounding * S_GM[:, :1])
        if is_rounding_GM[:, start:].all():  # or there are no more
            return U_GMM, L_GMN, S_GM
        _separate_(U_GMM, L_GMN, S_GM.masked_fill(is_rounding_GM, torch.inf), start)
        Q_GMM = _eigenvectors(_gram(L_GMN[:, start:]))
        U_GMM[:, :, start:] = U_GMM[:, :, start:] @ Q_GMM
        L_GMN[:, start:] = Q_GMM.mT @ L_GMN[:, start:]


def _separate_(U_GMM: Tensor, L_GMN: Tensor, S_GM: Tensor, start: int) -> None:
    """Turn the rows of L from `start` on orthogonal to those before, in place: a rotation by the small angles X.

    Rows whose norm is given as infinite stay where they are.
    """
    X_GMM = (L_GMN[:, :start] @ L_GMN[:, start:].mT) / S_GM[:, :start, None] ** 2
    for rows in (U_GMM.mT, L_GMN):
        rows[:, start:] -= X_GMM.mT @ rows[:, :start]
        rows[:, :start] += X_GMM @ rows[:, start:]


def _sharp_values(W_GMN: Tensor) -> Tensor | None:
    """The singular values in float32; None where squares leave its range, or are too small against the largest."""
    if W_GMN.shape[2] < 2 * W_GMN.shape[1]:  # even the values of a Gaussian matrix fall far below the largest
        return None
    gram_GMM = _gram(W_GMN)
    if not _in_range(gram_GMM):
        return None
    S_GM = _roots(gram_GMM)
    return S_GM if (S_GM[:, -1] >= _SHARP[W_GMN.dtype] * S_GM[:, 0]).all() else None


def _roots(gram_GMM: Tensor) -> Tensor:
    """Roots of the eigenvalues, falling."""
    return torch.linalg.eigvalsh(gram_GMM, UPLO="U").clamp_min(0).sqrt().flip(1)


def _norms(L_GMN: Tensor) -> Tensor:
    return torch.linalg.vector_norm(L_GMN, dim=2)


def _eigenvectors(gram_GMM: Tensor) -> Tensor:
    """Eigenvectors by falling eigenvalue, `(G, M, M)`."""
    return torch.linalg.eigh(gram_GMM, UPLO="U").eigenvectors.flip(2)


def _gram(L_GMN: Tensor) -> Tensor:
    """`L L^T`, right on and above the diagonal."""
    G, M, _ = L_GMN.shape
    gram_GMM = L_GMN.new_zeros(G, M, M)
    for start in range(0, M, _BLOCK):
        gram_GMM[:, start : start + _BLOCK, start:] = L_GMN[:, start : start + _BLOCK] @ L_GMN[:, start:].mT
    return gram_GMM
