r"""What the normal equations of one factor of a chain are near to: a product of what comes in and what goes out.

Legend: I in channels of the chain, O out channels; m and o channels in and out of the factor, k places of its kernel;
b and a places of the kernels before and after it. A `(I, m, b)` and B `(o, O, a)` the maps before and after the factor;
M second moments of the rows of a patch, P rows; N second moments of what the factor sees, L products of B.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lowrank_exp.reconstruct.held_rows import HeldRows

Solve = Callable[[Tensor], Tensor]
RIDGE = 1e-8  # of the mean eigenvalue: what was never seen, or is never passed on, must not be divided by


def inverse_near(seen_cholesky: Tensor, B_oOK: Tensor) -> Solve:
    r"""A function from r to L^-1 r N^-1, `(o, m, k...)`: the solution itself where no factor after it has a kernel.

    .. math:: \sum_{a a'} B_a B_{a'}^T w N_{a a'} \approx L w N, \qquad L = \sum_a B_a B_a^T, \quad N = \sum_a N_{a a}

    with N_{a a'} the moments of A x between two places of the kernels after the factor. Elsewhere it is a good
    preconditioner: two to four steps of conjugate gradients in the place of forty.

    Args:
        seen_cholesky: of N, by `cholesky_of_seen`.
        B_oOK: the map after the factor.
    """
    B_o = B_oOK.flatten(1)
    L_cholesky = _cholesky(B_o @ B_o.mT)

    def solve(r_omK: Tensor) -> Tensor:
        half = torch.cholesky_solve(r_omK.flatten(1), L_cholesky)
        return torch.cholesky_solve(half.mT, seen_cholesky).mT.reshape(r_omK.shape)

    return solve


def cholesky_of_seen(A_ImK: Tensor, weight_omK: Tensor, B_oOK: Tensor, second_GDD: Tensor | HeldRows) -> Tensor:
    """The lower triangle of N, `(m k, m k)`, for `inverse_near`.

    Args:
        A_ImK: the map before the factor; its kernel and the others' share no axis along which both are above 1.
        weight_omK: of the factor, for its shape.
        B_oOK: the map after it, for its kernel.
        second_GDD: M of one group, `(1, D, D)`, or the rows that it is of.
    """
    kernels = [tuple(of.shape[2:]) for of in (A_ImK, weight_omK, B_oOK)]
    # A row for every in channel and place before; linear layers have one place.
    A_im = A_ImK.reshape(*A_ImK.shape[:2], -1).transpose(1, 2).flatten(0, 1)
    return _cholesky(_seen(A_im, kernels, len(A_ImK), second_GDD))


def _seen(A_im: Tensor, kernels: list[tuple[int, ...]], channels: int, second: Tensor | HeldRows) -> Tensor:
    """N, `(m k, m k)`; `A_im` has a row for every in channel and place before."""
    sizes = [max(along) for along in zip(*kernels, strict=True)]
    # A patch has the channel first, then its axes in order: wanted are those before the factor, its own, those after.
    order = [0, *(1 + axis for kernel in kernels for axis, size in enumerate(kernel) if size > 1)]
    order += [1 + axis for axis, size in enumerate(sizes) if size == 1]
    shape = [len(A_im), *(torch.Size(kernel).numel() for kernel in kernels[1:])]
    if isinstance(second, HeldRows):
        N = 0
        for rows_GPD in second.rows():
            x_Pika = rows_GPD[0].unflatten(1, (channels, *sizes)).permute(0, *(1 + axis for axis in order))
            z_Pamk = torch.einsum("pika,im->pamk", x_Pika.reshape(-1, *shape), A_im).flatten(2).flatten(0, 1)
            N = N + z_Pamk.mT @ z_Pamk
        return N / second.count
    both = second[0].reshape(channels, *sizes, channels, *sizes)
    both = both.permute(*order, *(axis + len(order) for axis in order)).reshape(*shape, *shape)
    N_ikjl = both.diagonal(dim1=2, dim2=5).sum(dim=-1)
    return torch.einsum("im,ikjl,jn->mknl", A_im, N_ikjl, A_im).flatten(2).flatten(0, 1)


def _cholesky(matrix: Tensor) -> Tensor:
    ridge = RIDGE * matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    return torch.linalg.cholesky(matrix + ridge * torch.eye(len(matrix)).to(matrix))
