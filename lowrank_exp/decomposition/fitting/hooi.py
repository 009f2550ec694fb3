"""Higher-order orthogonal iteration (HOOI): the best Tucker decomposition of a kernel along its two channel modes.

Legend: G groups, O out channels and I in channels of one group, K all kernel entries, R in rank (R3 of Kim et al.),
Q out rank (R4); W kernel, U and V orthonormal columns of the out and the in mode, C core, A the kernel with one mode
compressed, M its Gram matrix along the other mode.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Below this lost share of the squared norm, a Gram matrix in float32 no longer tells what is lost from rounding.
FLOAT32_SHARE = 3e-5
# How far a Gram matrix is carried on in the direction of its last change; 0 is the iteration as published.
MOMENTUM = 0.5


class Tucker2Factors(NamedTuple):
    """`W_GOIK = sum over q, r of U_GOQ C_GQRK V_GIR`; U and V have orthonormal columns."""

    U_GOQ: Tensor
    C_GQRK: Tensor
    V_GIR: Tensor


def hooi(
    kernel_GOIK: Tensor,
    rank: tuple[int, int],
    iterations: int = 100,
    tolerance: float = 1e-3,
    start_GIR: Tensor | None = None,
) -> Tucker2Factors:
    r"""Minimize the error of a kernel with `rank` in channels and out channels, over all groups together.

    .. math:: \max_{U,V} \lVert W \times_O U^\top \times_I V^\top \rVert^2
        = \max_U \sum_{\text{dominant}} \lambda(A A^\top), \quad A = W \times_I V^\top

    A sweep solves for U with V held, then for V with U held, each by the dominant eigenvectors of a Gram matrix of
    channels x channels; so the error never rises. It begins with the V of the truncated HOSVD, whose error it therefore
    never exceeds.

    Args:
        kernel_GOIK: `(G, O, I, K)`, float32 or float64, all entries of the kernel in one axis.
        rank: (R, Q), the in and the out rank of every group.
        iterations: sweeps at most; 0 gives the truncated HOSVD.
        tolerance: stop after a sweep that lowers the squared error by no more than this part of it.
        start_GIR: V to begin with, in place of that of the HOSVD; any orthonormal columns.

    Source: De Lathauwer, De Moor, Vandewalle 2000, "On the best rank-1 and rank-(R1, ..., RN) approximation of
    higher-order tensors", algorithm 4.2; for kernels: Kim et al. 2016.

    Differs from the paper:
        1. Eigenvectors of a Gram matrix take the place of an SVD. float32 kernels are swept in float32 until so little
           is lost that float64 is needed (`FLOAT32_SHARE`).
        2. The dominant eigenvectors are those of M + `MOMENTUM` x (M - last M), which saves about a third of the
           sweeps on kernels without low rank; where that would raise the error, those of M.

    >>> W = torch.arange(48.0).reshape(1, 4, 3, 4)  # sums of one number per mode: rank 2 in every mode
    >>> U, C, V = hooi(W, (2, 2))
    >>> torch.allclose(torch.einsum("goq,gqrk,gir->goik", U, C, V), W, atol=1e-4)
    True
    """
    if iterations == 0:
        return hosvd(kernel_GOIK, rank)
    R, Q = rank
    # Squares of weights may leave the range of float32; those of numbers up to 1 do not.
    scale = kernel_GOIK.abs().amax().clamp_min(torch.finfo(kernel_GOIK.dtype).tiny)
    G, O, I, K = kernel_GOIK.shape
    W_GOKI = (kernel_GOIK / scale).transpose(2, 3).contiguous()
    # Both modes take turns as the last one of a matrix product: a copy in each order saves a transposition per sweep.
    W_GIKO = W_GOKI.permute(0, 3, 2, 1).contiguous()
    total = W_GOKI.square().sum(dtype=torch.float64).item()
    rounding = 2 * torch.finfo(W_GOKI.dtype).eps * total

    V_GIR = dominant(gram(W_GIKO.flatten(2)), R) if start_GIR is None else start_GIR.to(W_GOKI.dtype)
    M_GOO = M_GII = None
    kept = 0.0
    for sweep in range(iterations):
        before = kept
        A_GON = (W_GOKI.flatten(1, 2) @ V_GIR).reshape(G, O, K * R)
        U_GOQ, M_GOO, kept = _step(A_GON, M_GOO, Q, kept)
        # What is lost is a difference of two sums: of a kernel nearly of low rank float32 leaves no digit of it.
        if W_GOKI.dtype == torch.float32 and total - kept <= FLOAT32_SHARE * total:
            exact = hooi(kernel_GOIK.double(), rank, iterations, tolerance, V_GIR)
            return Tucker2Factors(*(factor.float() for factor in exact))
        if sweep == 0:  # what U gained over that of the HOSVD says nothing about the next sweep
            before = kept
        A_GIN = (W_GIKO.flatten(1, 2) @ U_GOQ).reshape(G, I, K * Q)
        V_GIR, M_GII, kept = _step(A_GIN, M_GII, R, kept)
        if kept - before <= max(tolerance * (total - kept), rounding):
            break
    C_GRKQ = (V_GIR.mT @ A_GIN).reshape(G, R, K, Q) * scale
    return Tucker2Factors(U_GOQ, C_GRKQ.permute(0, 3, 1, 2), V_GIR)


def hosvd(kernel_GOIK: Tensor, rank: tuple[int, int]) -> Tucker2Factors:
    """The truncated higher-order SVD: the dominant singular vectors of each unfolding by itself; in float64.

    Source: De Lathauwer, De Moor, Vandewalle 2000, "A multilinear singular value decomposition".
    """
    R, Q = rank
    W_GOIK = kernel_GOIK.double()
    U_GOQ = dominant(gram(W_GOIK.flatten(2)), Q)
    V_GIR = dominant(gram(W_GOIK.transpose(1, 2).flatten(2)), R)
    A_GQIK = (U_GOQ.mT @ W_GOIK.flatten(2)).unflatten(2, W_GOIK.shape[2:])
    C_GQRK = V_GIR.mT[:, None] @ A_GQIK
    return Tucker2Factors(*(factor.to(kernel_GOIK.dtype) for factor in (U_GOQ, C_GQRK, V_GIR)))


def kept_shares(kernel_GOIK: Tensor) -> np.ndarray:
    """Share of the squared norm that the truncated HOSVD keeps at every (in rank, out rank), `(I, O)`, rising.

    The truncated core is a corner of the core of the full HOSVD, so one cumulative sum along both modes gives them all.
    """
    _, O, I, _ = kernel_GOIK.shape
    C_GOIK = hosvd(kernel_GOIK.double(), (I, O)).C_GQRK
    kept_IO = C_GOIK.square().sum(dim=(0, 3)).T.cpu().numpy().cumsum(axis=0).cumsum(axis=1)
    # A layer of zeros loses nothing at any rank.
    return np.minimum(kept_IO / kept_IO[-1, -1], 1.0) if kept_IO[-1, -1] > 0 else np.ones_like(kept_IO)


def gram(X_GNM: Tensor) -> Tensor:
    """`X X^T` of every group, `(G, N, N)`."""
    return X_GNM @ X_GNM.mT


def dominant(M_GNN: Tensor, R: int) -> Tensor:
    """Eigenvectors of the `R` largest eigenvalues of symmetric matrices, falling, `(G, N, R)`."""
    return torch.linalg.eigh(M_GNN).eigenvectors[..., -R:].flip(-1)


def squared_singular_values(X_GNM: Tensor) -> np.ndarray:
    """Squared singular values summed over the groups, falling, `(min(N, M),)`; computed in float64."""
    X_GNM = X_GNM.double()
    M_GNN = gram(X_GNM if X_GNM.shape[1] <= X_GNM.shape[2] else X_GNM.mT)
    return torch.linalg.eigvalsh(M_GNN).clamp_min(0).sum(dim=0).flip(0).cpu().numpy()


def along_spectra(spectra: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    """Tuples of ranks from all ones to full, each with one rank more: all values above one falling threshold.

    Args:
        spectra: one array of falling values per mode; where values tie, earlier modes come first.

    >>> along_spectra([np.array([9, 4, 1]), np.array([9, 6])])
    [(1, 1), (1, 2), (2, 2), (3, 2)]
    """
    values = np.concatenate([spectrum[1:] for spectrum in spectra])
    modes = np.repeat(np.arange(len(spectra)), [len(spectrum) - 1 for spectrum in spectra])
    rungs = [[1] * len(spectra)]
    for mode in modes[np.argsort(-values, kind="stable")]:
        rungs.append([rank + (m == mode) for m, rank in enumerate(rungs[-1])])
    return [tuple(int(rank) for rank in rung) for rung in rungs]


def flat_spectra(full: Sequence[int]) -> list[np.ndarray]:
    """Spectra without numbers behind them, along which all ranks grow in proportion to `full`.

    >>> along_spectra(flat_spectra((2, 4)))
    [(1, 1), (1, 2), (2, 2), (2, 3), (2, 4)]
    """
    return [1 - np.arange(most) / most for most in full]


def _step(A_GNM: Tensor, last_GNN: Tensor | None, R: int, kept: float) -> tuple[Tensor, Tensor, float]:
    """Columns that keep at least `kept`, the Gram matrix of A, and the squared norm that they keep."""
    M_GNN = gram(A_GNM)
    if last_GNN is not None:
        # Extrapolated: where sweeps creep, the Gram matrix goes on in the same direction. It is taken only if it keeps
        # no less, so the error never rises.
        U_GNR = dominant(M_GNN + MOMENTUM * (M_GNN - last_GNN), R)
        if (more := _kept(M_GNN, U_GNR)) >= kept:
            return U_GNR, M_GNN, more
    U_GNR = dominant(M_GNN, R)
    return U_GNR, M_GNN, _kept(M_GNN, U_GNR)


def _kept(M_GNN: Tensor, U_GNR: Tensor) -> float:
    return (U_GNR * (M_GNN @ U_GNR)).sum(dtype=torch.float64).item()
