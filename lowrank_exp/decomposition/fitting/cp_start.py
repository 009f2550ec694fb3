"""Where the alternating least squares of a CP begins.

Legend: B tensors at once, O and I the first two modes, K all further modes together, R rank. Factors are `(B, R, n)`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

STARTS = ("auto", "slices", "pencil", "hosvd", "random")
_SHAKE = 0.1  # length of the random part of a unit vector


def starts(tensor_BN: Tensor, rank: int, init: str, seed: int) -> list[list[Tensor]]:
    """One start or, for "auto", all those worth a sweep: slices, and the pencil where it exists."""
    if init != "auto":
        return [start(tensor_BN, rank, init, seed)]
    both = ["slices", "pencil"] if not pencil_refusal(tensor_BN, rank) else ["slices"]
    return [start(tensor_BN, rank, one, seed) for one in both]


def start(tensor_BN: Tensor, rank: int, init: str, seed: int) -> list[Tensor]:
    """First factors, `(B, R, n)` for every mode n of `tensor_BN`, of the tensor's type and on its device.

    Raises:
        ValueError: an unknown init, or one that does not exist for this tensor at this rank.
    """
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        return [_gaussian(tensor_BN, rank, n, generator) for n in tensor_BN.shape[1:]]
    if init == "hosvd":
        return [_leading(tensor_BN.movedim(mode, 1).flatten(2), rank, generator) for mode in range(1, tensor_BN.ndim)]
    if init == "slices":
        first, *others = slices(tensor_BN, rank, generator)
        return [first, *(_shake(f, generator) for f in others)]
    if init == "pencil":
        return pencil(tensor_BN, rank)
    raise ValueError(f"init must be one of {', '.join(STARTS)}, or factors; got {init!r}")


def slices(tensor_BN: Tensor, rank: int, generator: torch.Generator | None = None) -> list[Tensor]:
    r"""The `rank` largest of the singular components of all matrices `tensor[:, :, k]`; Gaussian where there are fewer.

    .. math:: T_{:,:,k} = \sum_j s_{k,j} u_{k,j} v_{k,j}^\top \quad\Rightarrow\quad
        T = \sum_{k,j} s_{k,j}\, u_{k,j} \circ v_{k,j} \circ e_k

    so that K min(O, I) components are exact; modes beyond the third get the unit vectors that make up `e_k`.
    """
    _, O, I, *further = tensor_BN.shape
    K = math.prod(further)
    slices_BKOI = tensor_BN.reshape(-1, O, I, K).permute(0, 3, 1, 2)
    terms = min(O, I)
    if 2 * rank < terms:  # a sketch of the few that are wanted takes less time than all
        U, S, Vh = _sketch(slices_BKOI, rank, generator)
        terms = rank
    else:
        U, S, Vh = torch.linalg.svd(slices_BKOI, full_matrices=False)
    chosen = min(rank, K * terms)
    values_BR, index_BR = S.flatten(1).topk(chosen)
    u_BRO = _pick(U.mT, index_BR) * values_BR[..., None]
    v_BRI = _pick(Vh, index_BR)
    places = torch.unravel_index(index_BR // terms, further) if further else ()
    units = [torch.eye(n, dtype=u_BRO.dtype, device=u_BRO.device)[at] for n, at in zip(further, places, strict=True)]
    factors = [u_BRO, v_BRI, *units]
    if chosen < rank:
        more = [_gaussian(tensor_BN, rank - chosen, f.shape[2], generator) for f in factors]
        factors = [torch.cat(pair, dim=1) for pair in zip(factors, more, strict=True)]
    return factors


def pencil_refusal(tensor_BN: Tensor, rank: int) -> str | None:
    """Why a tensor has no start "pencil" at this rank; None where it has."""
    _, O, I, *further = tensor_BN.shape
    if rank <= min(O, I) and math.prod(further) > 1:
        return None
    return f"pencil needs a rank of at most {min(O, I)} and two matrices or more, got {rank} and {math.prod(further)}"


def pencil(tensor_BN: Tensor, rank: int) -> list[Tensor]:
    r"""The components of a tensor that has exactly `rank` of them, from the eigenvectors of two of its matrices.

    In the bases U and V of the R leading singular vectors of the first two modes, the two leading combinations of the
    matrices `T[:, :, k]` are `S_z = A diag(c_z) B^T`, so that

    .. math:: S_2 S_1^{-1} = A\, \mathrm{diag}(c_2 / c_1)\, A^{-1}

    has the components of the first mode as eigenvectors. What they leave of the tensor, one matrix per component, has
    rank one and gives the other factors. A tensor with noise gives a good start where its components stand out. Of a
    pair of complex eigenvectors the real and the imaginary part are taken.

    Raises:
        ValueError: a rank above either of the first two modes, or one matrix only.

    Source: Sanchez and Kowalski 1990, "Tensorial resolution: a direct trilinear decomposition".
    """
    if reason := pencil_refusal(tensor_BN, rank):
        raise ValueError(reason)
    B, _, I, *further = tensor_BN.shape
    tensor_BOIK = tensor_BN.flatten(3) if further else tensor_BN[..., None]
    U_BRO, V_BRI = (_singular(tensor_BOIK.movedim(mode, 1).flatten(2), rank) for mode in (1, 2))
    W_B2K = _singular(tensor_BOIK.movedim(3, 1).flatten(2), 2)
    small_BRIK = (U_BRO @ tensor_BOIK.flatten(2)).unflatten(2, (I, -1))
    S1, S2 = torch.einsum("bpik,bqi,bzk->zbpq", small_BRIK, V_BRI, W_B2K)
    values, vectors = torch.linalg.eig(S2 @ torch.linalg.pinv(S1))
    # Noise makes pairs of eigenvalues complex; both parts of their vectors span what the pair stands for.
    inner_BRR = torch.where(values.imag[:, None] >= 0, vectors.real, vectors.imag)
    image = torch.linalg.pinv(inner_BRR) @ small_BRIK.flatten(2)
    factors = [inner_BRR.mT @ U_BRO]
    for n in (I, *further):
        image = image.reshape(B * rank, n, -1)
        leading = _singular(image, 1)
        factors.append(leading.reshape(B, rank, n))
        image = leading @ image
    factors[0] = factors[0] * image.reshape(B, rank, 1)
    return factors


def _sketch(matrices: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Close to the first `rank` singular components; Halko, Martinsson, Tropp 2011, with one power iteration."""
    draw = torch.randn(matrices.shape[-1], rank, generator=generator).to(matrices)
    Q = torch.linalg.qr(matrices @ (matrices.mT @ (matrices @ draw))).Q
    U, S, Vh = torch.linalg.svd(Q.mT @ matrices, full_matrices=False)
    return Q @ U, S, Vh


def _leading(unfolding_BnM: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """The `rank` first left singular vectors as rows, Gaussian rows where there are fewer."""
    rows = _singular(unfolding_BnM, min(rank, unfolding_BnM.shape[1]))
    more = _gaussian(unfolding_BnM, rank - rows.shape[1], rows.shape[2], generator)
    return torch.cat([rows, more], dim=1)


def _singular(matrices_BnM: Tensor, rank: int) -> Tensor:
    """The `rank` first left singular vectors as rows, `(B, rank, n)`."""
    n, M = matrices_BnM.shape[1:]
    if n <= M or rank > M:
        return torch.linalg.eigh(matrices_BnM @ matrices_BnM.mT).eigenvectors.mT.flip(1)[:, :rank]
    right_BRM = torch.linalg.eigh(matrices_BnM.mT @ matrices_BnM).eigenvectors.mT.flip(1)[:, :rank]
    return F.normalize(right_BRM @ matrices_BnM.mT, dim=2)


def _pick(rows: Tensor, index_BR: Tensor) -> Tensor:
    """Rows `(B, K, J, n)` at the indices into K J."""
    flat = rows.flatten(1, 2)
    return flat.gather(1, index_BR[..., None].expand(-1, -1, flat.shape[2]))


def _shake(factor_BRn: Tensor, generator: torch.Generator) -> Tensor:
    """Turned a little: components that share no direction at all can stand on a saddle, which no sweep leaves."""
    _, R, n = factor_BRn.shape
    return factor_BRn + _SHAKE / n**0.5 * _gaussian(factor_BRn, R, n, generator)


def _gaussian(like: Tensor, rank: int, n: int, generator: torch.Generator) -> Tensor:
    """The same numbers for every tensor, so that its fit does not depend on those beside it."""
    return torch.randn(rank, n, generator=generator, dtype=torch.float64).to(like).expand(len(like), -1, -1)
