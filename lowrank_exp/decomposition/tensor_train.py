"""Tensor train of a kernel over its modes (in channels, kernel axes ..., out channels).

Legend: G groups, N size of a mode, r rank between two modes, M rows and P columns of an unfolding; O out channels and
I in channels of one group, H x W kernel.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.by_tensorly import check_solver, train_by_tensorly
from lowrank_exp.decomposition.fitting.energy import energy_of
from lowrank_exp.decomposition.fitting.gram import unfolded
from lowrank_exp.decomposition.fitting.hooi import along_spectra, dominant, flat_spectra, gram, squared_singular_values
from lowrank_exp.decomposition.svd import middle, wrong_kind
from lowrank_exp.network.cost import CONVOLUTIONS


class TensorTrain(Decomposition):
    r"""A 1 x 1 convolution, one convolution along each kernel axis, a 1 x 1 convolution; none depthwise.

    .. math:: W_{i,h,w,o} \approx \sum_{r_1,r_2,r_3} A_{i,r_1} B_{r_1,h,r_2} C_{r_2,w,r_3} D_{r_3,o}

    Maps per group: I -> r1 -> r2 -> r3 -> O. The settings of each kernel axis lie on the convolution along it. The rank
    is (r1, r2, r3), one more than there are kernel axes: (r1, r2) for one axis, four ranks for three. Full rank of each
    is the smaller side of its unfolding, of one group: min(I, H W O), min(I H, W O), min(I H W, O). A rank can be used
    only if it is at most its neighbours' times the size of the mode between them: r2 <= r1 H, r2 <= r3 W and so on.

    The weights are those of the TT-SVD: truncated SVDs from left to right. Its squared error lies between the largest
    and the sum of the tails of the unfoldings' squared singular values.

    Args:
        solver: "ours", or "tensorly" for TensorLy's fit at the same rank, as a reference: the plan of a job then tells
            error and time of both. The algorithm is the same; ours is the default because it cuts all groups at once
            and takes eigenvectors of Gram matrices in the place of SVDs.

    Raises:
        ValueError: another solver.

    Source: Oseledets 2011, "Tensor-train decomposition", algorithm 1 and theorem 2.2.

    Differs from the paper:
        1. Garipov et al. 2016 split the channels into further modes; here channels are one mode each, so that all
           factors are plain convolutions.

    >>> [tuple(part.weight.shape) for part in TensorTrain().factorize(nn.Conv2d(4, 6, (3, 5)), (2, 4, 3))]
    [(2, 4, 1, 1), (4, 2, 3, 1), (3, 4, 1, 5), (6, 3, 1, 1)]
    """

    name = "tensor_train"
    cuts = 3
    ladder_follows_weights = True

    def __init__(self, solver: str = "ours") -> None:
        self.solver = check_solver(solver, {})

    def options(self) -> dict[str, Any]:
        return {} if self.solver == "ours" else {"solver": self.solver}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def full_rank(self, layer: nn.Module) -> tuple[int, ...]:
        sizes = _modes(layer)
        return tuple(min(prod(sizes[:cut]), prod(sizes[cut:])) for cut in range(1, len(sizes)))

    def check_rank(self, layer: nn.Module, rank: Any, layer_name: str = "layer") -> tuple[int, ...]:
        """`rank` as a tuple of ints.

        Raises:
            ValueError: as for every decomposition; or a rank that its neighbours leave no use for.
        """
        rank = super().check_rank(layer, rank, layer_name)
        usable = _usable(rank, _modes(layer))
        if usable != rank:
            raise ValueError(
                f"{layer_name}: rank {list(rank)} cannot be used whole by {self.name}: of two neighbouring ranks "
                f"neither may exceed the other times the kernel size between them, {list(layer.kernel_size)}; "
                f"the nearest usable rank above is {list(usable)}"
            )
        return rank

    def skeleton(self, layer: nn.Module, rank: tuple[int, ...], device: Any = None) -> nn.Sequential:
        maps = [middle(layer, one) for one in rank]
        chain = nn.Sequential(pointwise_like(layer, layer.in_channels, maps[0], bias=False, device=device))
        for axis in range(axes(layer)):
            keep = tuple(other == axis for other in range(axes(layer)))
            chain.append(convolution_like(layer, *maps[axis : axis + 2], keep=keep, bias=False, device=device))
        return chain.append(
            pointwise_like(layer, maps[-1], layer.out_channels, bias=layer.bias is not None, device=device)
        )

    def factorize(self, layer: nn.Module, rank: tuple[int, ...]) -> nn.Sequential:
        """The plain layers with the weights of the TT-SVD, computed in float64.

        Raises:
            ValueError: not as many integers as there must be, one out of range, or one that its neighbours cannot use.
        """
        rank = self.check_rank(layer, rank)
        chain = self.skeleton(layer, rank)
        fit = train_by_tensorly if self.solver == "tensorly" else tt_svd
        first_GNIr, *middle_GrNr, last_GrON = fit(_tensor(layer), rank)
        weights = [_pointwise(layer, first_GNIr.squeeze(1).mT)]
        for axis, core_GrNr in enumerate(middle_GrNr):
            kernel = [1] * axes(layer)
            kernel[axis] = layer.kernel_size[axis]
            weights.append(weight_like(layer, core_GrNr.permute(0, 3, 1, 2).unflatten(3, kernel)))
        weights.append(_pointwise(layer, last_GrON.squeeze(3).mT))
        return fill_(chain, weights, layer)

    def energies(self, layer: nn.Module, ranks: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Estimated share of the squared norm kept at `ranks`; the true one would take a TT-SVD for every rung.

        What each unfolding alone would keep is known. The true share is at most the least of them, and their product is
        too low at low ranks, where one cut leaves less for the next to lose; the estimate is the geometric mean of the
        two. Like the true share it lies between 1 minus the sum and 1 minus the largest of the tails, and it is 1 at
        full rank. On Gaussian kernels it is right within 0.05.
        """
        return self.kept_at(self.kept_tables(layer), ranks)

    def kept_tables(self, layer: nn.Module) -> tuple[np.ndarray, ...]:
        """What each unfolding alone would keep at its ranks 1, 2 ..."""
        return tuple(energy_of(np.sqrt(spectrum)[None]) for spectrum in self.spectra(layer))

    def kept_at(self, tables: Sequence[np.ndarray], ranks: Sequence[tuple[int, ...]]) -> np.ndarray:
        shares = np.stack([share[one - 1] for share, one in zip(tables, np.asarray(ranks).T, strict=True)])
        return np.sqrt(shares.prod(axis=0) * shares.min(axis=0))

    def ladder(self, layer: nn.Module) -> list[tuple[int, ...]]:
        """Ranks from all ones to full: all unfoldings keep what lies above one falling threshold.

        The threshold is on their squared singular values, summed over the groups; a rank that its neighbours leave no
        use for takes them along, so a rung may raise several. Without numbers (on the meta device) all grow in
        proportion.
        """
        spectra = flat_spectra(self.full_rank(layer)) if layer.weight.is_meta else self.spectra(layer)
        return list(dict.fromkeys(_usable(rung, _modes(layer)) for rung in along_spectra(spectra)))

    def spectra(self, layer: nn.Module) -> list[np.ndarray]:
        """Squared singular values of every unfolding, summed over the groups, falling."""
        return [squared_singular_values(matrix_GMP) for matrix_GMP in _unfoldings(_tensor(layer))]

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        """Those between any two neighbouring modes, each for its own rank."""
        return tuple(map(unfolded, _unfoldings(kernel_GOIK(layer).movedim(1, -1))))

    def usable(self, layer: nn.Module, rank: tuple[int, ...]) -> tuple[int, ...]:
        return _usable(rank, _modes(layer))

    def factor_weights(self, layer: nn.Module, ranks: Sequence[tuple[int, ...]]) -> np.ndarray:
        ones = np.ones((len(ranks), 1), dtype=int)
        between = np.concatenate([ones, np.asarray(ranks), ones], axis=1)
        return layer.groups * between[:, :-1] * np.array(_modes(layer)) * between[:, 1:]


def tt_svd(tensor: Tensor, rank: Sequence[int]) -> list[Tensor]:
    """The cores of a tensor train by truncated SVDs from left to right.

    Args:
        tensor: `(G, N1, N2, ...)`, one train per group.
        rank: one rank between any two neighbouring modes, usable with its neighbours.

    Returns:
        Cores `(G, r before, N, r after)`; all but the last have orthonormal columns `(r before N, r after)`.
    """
    G, *sizes = tensor.shape
    cores, before = [], 1
    rest = tensor.flatten(1)
    for N, r in zip(sizes, rank, strict=False):
        X_GMP = rest.reshape(G, before * N, -1)
        Q_GMr = _left(X_GMP, r)
        cores.append(Q_GMr.reshape(G, before, N, r))
        rest, before = Q_GMr.mT @ X_GMP, r
    return [*cores, rest.reshape(G, before, sizes[-1], 1)]


def _left(X_GMP: Tensor, r: int) -> Tensor:
    """An orthonormal basis of the `r` dominant left singular vectors, `(G, M, r)`."""
    if X_GMP.shape[1] <= X_GMP.shape[2]:
        return dominant(gram(X_GMP), r)
    return torch.linalg.qr(X_GMP @ dominant(gram(X_GMP.mT), r)).Q


def _usable(rank: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """The smallest ranks, none below `rank`, of which none exceeds a neighbour times the mode between them."""
    usable = list(rank)
    for k in range(1, len(usable)):
        usable[k] = max(usable[k], -(-usable[k - 1] // sizes[k]))
    for k in reversed(range(len(usable) - 1)):
        usable[k] = max(usable[k], -(-usable[k + 1] // sizes[k + 1]))
    return tuple(usable)


def _modes(layer: nn.Module) -> tuple[int, ...]:
    """Sizes of the modes of one group: in channels, kernel axes, out channels."""
    return layer.in_channels // layer.groups, *layer.kernel_size, layer.out_channels // layer.groups


def _tensor(layer: nn.Module) -> Tensor:
    """The kernel in float64 with its modes in the train's order, `(G, I, *K, O)`."""
    return kernel_GOIK(layer).double().movedim(1, -1)


def _unfoldings(tensor: Tensor) -> list[Tensor]:
    """Of a tensor `(G, I, *K, O)` the matrix `(G, M, P)` of every cut between two modes."""
    return [tensor.flatten(1, cut).flatten(2) for cut in range(1, tensor.dim() - 1)]


def _pointwise(layer: nn.Module, factor_GOI: Tensor) -> Tensor:
    """The weight of a 1 x 1 convolution, `(G O, I, 1 ...)`."""
    return factor_GOI.reshape(-1, factor_GOI.shape[2], *(1,) * axes(layer))
