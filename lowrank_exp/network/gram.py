"""Gram matrices of factors: symmetric, so half of them is computed; and what they are multiplied with for a gradient.

Legend: G matrices, R rows, X columns.
"""

from torch import Tensor

# Rows computed at a time, each block from its diagonal on.
_BLOCK = 128


def gram(rows_GRX: Tensor) -> Tensor:
    """`A A^T` of every matrix, `(G, R, R)`.

    >>> import torch
    >>> gram(torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])).tolist()
    [[[25.0, 4.0], [4.0, 1.0]]]
    """
    G, R, _ = rows_GRX.shape
    if R < 2 * _BLOCK:
        return rows_GRX @ rows_GRX.mT
    A_GRR = rows_GRX.new_empty(G, R, R)
    for start in range(0, R, _BLOCK):
        block = slice(start, start + _BLOCK)
        A_GRR[:, block, start:] = rows_GRX[:, block] @ rows_GRX[:, start:].mT
        A_GRR[:, block, :start] = A_GRR[:, :start, block].mT
    return A_GRR


def add_product_(out_GRX: Tensor, symmetric_GRR: Tensor, rows_GRX: Tensor, alpha: float = 1.0) -> Tensor:
    """Add `alpha` times the product of both to `out_GRX`, in place, without a copy of it in between."""
    if len(out_GRX) == 1:  # takes transposed memory as it is, which the product of several matrices copies
        out_GRX[0].addmm_(symmetric_GRR[0], rows_GRX[0], alpha=alpha)
        return out_GRX
    return out_GRX.baddbmm_(symmetric_GRR, rows_GRX, alpha=alpha)
