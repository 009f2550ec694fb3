"""One sweep over the factors of a CP: the tensor contracted with all factors but one, for every mode in turn.

Legend: B tensors at once, N modes of sizes O (the first), n (one of the others), P (all others together), R rank.
Factors are `(B, R, n)`: a row is a component, so that every product is a plain matrix product on the tensor as it lies
in memory, and no Khatri-Rao product is larger than the first factor's side of it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# From the Gram matrix of the other factors, the tensor contracted with them, all factors and the mode: the new factor.
Solve = Callable[[Tensor, Tensor, list[Tensor], int], Tensor]


def sweep(tensor_BOP: Tensor, factors: list[Tensor], solve: Solve) -> tuple[list[Tensor], Tensor]:
    """Every factor solved once, the first one last; and the squared norm that the components keep, `(B,)`."""
    B, R, _ = factors[0].shape
    grams = [f @ f.mT for f in factors]
    swept = list(factors)
    # The product with the whole tensor is the dear one: it is made once for all modes but the first, and each mode that
    # is solved is contracted away before the next. The first factor comes last, from the tensor itself.
    image = factors[0] @ tensor_BOP  # (B, R, P), its modes contracted one after the other
    for mode in range(1, len(factors)):
        image = image.reshape(B * R, factors[mode].shape[2], -1)
        later = outer(swept[mode + 1 :]) if mode + 1 < len(factors) else image.new_ones(B, R, 1)
        mttkrp_BRn = (image @ later.reshape(B * R, -1, 1)).reshape(B, R, -1)
        swept[mode] = solve(_hadamard(grams[:mode] + grams[mode + 1 :]), mttkrp_BRn, swept, mode)
        grams[mode] = swept[mode] @ swept[mode].mT
        image = swept[mode].reshape(B * R, 1, -1) @ image
    gram_BRR, mttkrp_BRn = _hadamard(grams[1:]), outer(swept[1:]) @ tensor_BOP.mT
    swept[0] = solve(gram_BRR, mttkrp_BRn, swept, 0)
    solved, twice = swept[0].double(), 2 * mttkrp_BRn.double()
    return swept, ((twice - gram_BRR.double() @ solved) * solved).sum((1, 2))  # 2 <M, A> - <A, G A>


def least_squares(ridge_B: Tensor) -> Solve:
    """Solves `(G + rho I) A = M`, rho a share `ridge` of the mean of G's diagonal, or more where Cholesky needs it."""

    def solve(gram_BRR: Tensor, mttkrp_BRn: Tensor, factors: list[Tensor], mode: int) -> Tensor:
        gram_BRR = gram_BRR.double()
        mean_B = gram_BRR.diagonal(dim1=1, dim2=2).mean(1)
        mean_B = mean_B.where(mean_B > 0, 1.0)
        one_RR = torch.eye(gram_BRR.shape[1], dtype=torch.float64, device=gram_BRR.device)
        share_B = ridge_B
        lower, failed_B = torch.linalg.cholesky_ex(gram_BRR + (share_B * mean_B)[:, None, None] * one_RR)
        while failed_B.any():  # components that are nearly parallel; a larger ridge holds them apart
            share_B = 100 * share_B.clamp(min=1e-12)
            lower, failed_B = torch.linalg.cholesky_ex(gram_BRR + (share_B * mean_B)[:, None, None] * one_RR)
        solved = torch.cholesky_solve(mttkrp_BRn.double(), lower).to(mttkrp_BRn.dtype)
        # The first factor alone carries the norms: no component grows in one factor and shrinks in another.
        return unit(solved) if mode else solved

    return solve


class Extrapolation:
    """Takes every tensor's factors past where a sweep brought them, and back where that made things worse.

    After Ang and Gillis 2019: the step is a share of the last change; it grows while all goes well, and shrinks after
    a failure, which it then does not repeat for a while.

    Args:
        factors: where the sweeps begin.
        acceleration: False to go no further than the sweeps do.
    """

    def __init__(self, factors: list[Tensor], acceleration: bool = True) -> None:
        self.best = factors
        place = {"dtype": torch.float64, "device": factors[0].device}
        self._share_B = torch.full((len(factors[0]),), 0.9 if acceleration else 0.0, **place)
        self._ceiling_B = torch.ones(len(factors[0]), **place)
        self._first = True

    def beyond(self, swept: list[Tensor], better_B: Tensor) -> list[Tensor]:
        """Factors to begin the next sweep with; `best` becomes `swept` where that is better."""
        share_B = self._share_B.where(better_B, 0.0)
        self._ceiling_B = torch.where(better_B, (1.01 * self._ceiling_B).clamp(max=1.0), self._share_B)
        grown_B = torch.minimum(1.05 * self._share_B, self._ceiling_B)
        self._share_B = torch.where(better_B, grown_B, self._share_B / 1.5)
        before, self.best = self.best, [choose(better_B, s, f) for s, f in zip(swept, self.best, strict=True)]
        if self._first:  # a start is too far from the first sweep to go on in that direction
            self._first = False
            return self.best
        share_B11 = share_B[:, None, None].to(self.best[0].dtype)
        return [now + share_B11 * (now - then) for now, then in zip(self.best, before, strict=True)]


def choose(this_B: Tensor, one_BRn: Tensor, other_BRn: Tensor) -> Tensor:
    """`one` for the tensors where `this` holds, `other` for the rest."""
    return torch.where(this_B[:, None, None], one_BRn, other_BRn)


def outer(factors: Sequence[Tensor]) -> Tensor:
    """The row-wise Kronecker product `(B, R, n_1 n_2 ...)` of factors `(B, R, n)`."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[..., None] * factor[:, :, None, :]).flatten(2)
    return product


def unit(factor_BRn: Tensor) -> Tensor:
    """Rows of norm 1; rows of zeros stay."""
    norm = torch.linalg.vector_norm(factor_BRn, dim=2, keepdim=True)
    return factor_BRn / norm.where(norm > 0, 1.0)


def balance(factors: list[Tensor]) -> list[Tensor]:
    """The same components, their norms spread equally over the factors."""
    norms = [torch.linalg.vector_norm(f, dim=2, keepdim=True) for f in factors]
    share = math.prod(norm ** (1 / len(factors)) for norm in norms)
    return [unit(f) * share for f in factors]


def norm_squared(tensor_BOP: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor_BOP, dim=(1, 2), dtype=torch.float64) ** 2


def _hadamard(grams: Sequence[Tensor]) -> Tensor:
    return math.prod(grams[1:], start=grams[0])
