"""RePr's re-initialisation: new filters in the null space of those of the layer.

Legend: O filters of a layer (or of one of its groups), X entries of a filter, D dropped filters; A the filters as rows
of length one, V an orthonormal set of rows in their null space.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of, positive
from lowrank_exp.network.gram import gram
from lowrank_exp.pruning.criteria.filters import by_filter, filters

PASSES = 4  # of the projection, each of which leaves about the rounding of the one before
EXACT = 1e-12  # inner products of filters of length one that count as none


@dataclass(frozen=True)
class NullSpace:
    r"""New filters, orthogonal to every kept filter of the layer and to the old values of the dropped ones.

    .. math:: V A^T = 0, \qquad w_f = \text{gain} \cdot \text{length} \cdot v_f

    The v_f are drawn from the null space without any preferred direction, orthonormal where it has room for D of them;
    in one of fewer dimensions they are of length one and overlap with each other only.

    Args:
        scale: length of a new filter: `kept`, the mean length of the layer's kept filters; `unit`, 1; `clip`, that at
            which no entry exceeds `1 / sqrt(X)`, and at most 1.
        gain: factor on it.
        empty: what takes the place of the null space where there is none, as in a first layer with more filters than
            entries: `least`, the D directions in which the filters are smallest (those of the smallest singular values
            of A; beyond X of them, random directions); `random`, entries drawn evenly between -1 and 1 over sqrt(X),
            whatever `scale` and `gain`; `keep`, the old values.

    Raises:
        ValueError: another value of an option.

    Source: Prakash, Storer, Florencio, Zhang 2019, "RePr: improved training of convolutional filters",
    re-initialisation by QR; `clip` and random vectors of the null space: what the author told re-implementers.

    Differs from the paper:
        1. The paper does not say what is done where the null space is empty, nor how long a new filter is.
        2. A long matrix A is projected out by the Cholesky factor of A A^T, again until inner products are below 1e-12
           in float64; where that does not succeed or there is little room, by an SVD. A QR would give the same space.
        3. The authors' code takes a column of Q for each dropped filter, of the QR of the weights as they are, which is
           orthogonal neither to the filter's own old value nor to those that come after it.
    """

    scale: str = "kept"
    gain: float = 1.0
    empty: str = "least"

    def __post_init__(self) -> None:
        one_of("NullSpace: scale", self.scale, ("kept", "unit", "clip"))
        one_of("NullSpace: empty", self.empty, ("least", "random", "keep"))
        positive("gain", self.gain, f"NullSpace: gain={self.gain!r} is not a number above 0")

    def reinitialise_(
        self, layer: nn.Module, dropped: Iterable[int], generator: torch.Generator, old: Tensor | None = None
    ) -> None:
        """Give the dropped filters of a layer new weights, in place; nothing else of it is changed.

        Biases, the batch norm behind and the optimizer's state are the caller's to reset. Filters of a grouped
        convolution are compared within their group.

        Args:
            layer: a convolution, transposed or not, or a linear layer, whose kept filters have their current values.
            dropped: out channels.
            generator: on the CPU.
            old: a weight as that of the layer, which holds the values that the dropped filters had before they were
                dropped; None: the layer's own, which must not have been zeroed then.

        Raises:
            ValueError: an index that does not exist, or a group none of whose filters is kept.
        """
        W_GFX = filters(layer).to(torch.float64, copy=True)
        G, F, _ = W_GFX.shape
        indices = sorted(set(dropped))
        if indices and not 0 <= indices[0] <= indices[-1] < G * F:
            raise ValueError(f"filters {indices} shall be re-initialised; the layer has {G * F}, counted from 0")
        of_group = {g: [f % F for f in indices if f // F == g] for g in range(G)}
        # A silent filter is 0, and 0 says nothing of where it pointed: what is new is orthogonal to the old values too.
        if old is not None:
            before_GFX = filters(layer, old).double()
            for g, rows in of_group.items():
                W_GFX[g, rows] = before_GFX[g, rows]
        weight_GF = by_filter(layer, layer.weight.detach())
        for g, rows in of_group.items():
            if rows:
                new_DX = self.drawn(W_GFX[g], rows, generator)
                weight_GF[g, rows] = new_DX.view(len(rows), *weight_GF.shape[2:]).to(weight_GF.dtype)

    def drawn(self, W_OX: Tensor, dropped: list[int], generator: torch.Generator) -> Tensor:
        """New filters `(D, X)` for the dropped rows, float64.

        Args:
            W_OX: the layer's filters, kept ones with their current and dropped ones with their old values.
            dropped: rows.
            generator: on the CPU.

        Raises:
            ValueError: none is kept.
        """
        W_OX = W_OX.double()
        O, X = W_OX.shape
        D = len(dropped)
        kept = sorted(set(range(O)) - set(dropped))
        if not kept:
            raise ValueError(f"all {O} filters of a layer shall be re-initialised: at least one is kept")
        lengths_O1 = torch.linalg.vector_norm(W_OX, dim=1, keepdim=True)
        # Of length one: the null space is the same, and a short filter is not lost in the rounding of long ones.
        A_OX = W_OX / lengths_O1 if (lengths_O1 > 0).all() else (W_OX / lengths_O1)[lengths_O1[:, 0] > 0]
        # The cheap way wants room to spare, beyond D; it says itself where rows are too near dependent for it.
        V_DX = _draw_by_projection(A_OX, D, generator) if 0 < len(A_OX) <= X - 2 * D else None
        if V_DX is None:
            V_DX, empty = _draw_by_svd(A_OX, D, X, generator)
            if empty and self.empty == "keep":
                return W_OX[dropped]
            if empty and self.empty == "random":
                uniform_DX = torch.rand(D, X, generator=generator, dtype=torch.float64).to(W_OX.device)
                return (2 * uniform_DX - 1) / X**0.5
        length = {
            "kept": lengths_O1[kept].mean(),
            "unit": 1.0,
            "clip": (X**-0.5 / V_DX.abs().amax(dim=1, keepdim=True)).clamp(max=1),
        }
        return self.gain * length[self.scale] * V_DX


def _draw_by_projection(A_RX: Tensor, D: int, generator: torch.Generator) -> Tensor | None:
    """D orthonormal rows orthogonal to the rows of A, where there is much room; None where A is too near dependent."""
    V_DX = torch.randn(D, A_RX.shape[1], generator=generator).to(A_RX.device, torch.float64)
    L_RR, failed = torch.linalg.cholesky_ex(gram(A_RX[None])[0])
    # One projection leaves the rounding of A A^T's inverse, which the next one takes off.
    for _ in range(PASSES):
        if failed:
            return None
        V_DX = V_DX - torch.cholesky_solve(A_RX @ V_DX.mT, L_RR).mT @ A_RX
        L_DD, failed = torch.linalg.cholesky_ex(gram(V_DX[None])[0])
        V_DX = torch.linalg.solve_triangular(L_DD, V_DX, upper=False)
        if not failed and (A_RX @ V_DX.mT).abs().max() < EXACT:
            return V_DX
    return None


def _draw_by_svd(A_RX: Tensor, D: int, X: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """D rows of length one from the null space of A by its SVD, or the least of A's directions; whether it is empty."""
    _, S, V_XX = torch.linalg.svd(A_RX, full_matrices=True)
    rounding = S[:1] * max(A_RX.shape) * torch.finfo(torch.float64).eps
    rank = int((rounding < S).sum())
    empty = rank == X
    # An SVD gives the null space in an arbitrary basis, and the least directions with arbitrary signs: both are turned
    # at random below, or new filters would depend on the SVD's implementation more than on the seed.
    least_MX = V_XX[-min(D, X) :].flip(0) if empty else V_XX[rank:]
    M = len(least_MX)
    if empty:
        turned = torch.randint(2, (M, 1), generator=generator, dtype=torch.float64) * 2 - 1
        beyond_DX = torch.randn(D - M, X, generator=generator, dtype=torch.float64).to(A_RX.device)
        beyond_DX = beyond_DX / torch.linalg.vector_norm(beyond_DX, dim=1, keepdim=True)
        return torch.cat([turned.to(A_RX.device) * least_MX, beyond_DX]), True
    normal_MD = torch.randn(M, D, generator=generator, dtype=torch.float64).to(A_RX.device)
    if M >= D:
        return torch.linalg.qr(normal_MD).Q.mT @ least_MX, False
    V_DX = normal_MD.mT @ least_MX
    return V_DX / torch.linalg.vector_norm(V_DX, dim=1, keepdim=True), False
