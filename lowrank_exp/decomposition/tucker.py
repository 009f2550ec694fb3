"""Tucker decompositions of a kernel along its channel modes: Tucker-2 along both, Tucker-1 along one.

Legend: G groups, O out channels and I in channels of one group, K all kernel entries, R in rank (R3 of the paper),
Q out rank (R4).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lowrank_exp.checks import positive, whole
from lowrank_exp.decomposition.base import Decomposition, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.by_tensorly import check_solver, tucker2_by_tensorly
from lowrank_exp.decomposition.fitting.gram import channel_unfoldings
from lowrank_exp.decomposition.fitting.hooi import (
    along_spectra,
    flat_spectra,
    hooi,
    kept_shares,
    squared_singular_values,
)
from lowrank_exp.decomposition.svd import SVDDecomposition, middle, two, wrong_kind
from lowrank_exp.network.cost import CONVOLUTIONS


class Tucker2(Decomposition):
    r"""Compress in and out channels: a 1 x 1 convolution, a small K x K convolution (the core), a 1 x 1 convolution.

    .. math:: W_{o,i,k} \approx \sum_{q=1}^{R_4} \sum_{r=1}^{R_3} U_{o,q} C_{q,r,k} V_{i,r}

    The rank is (R3, R4), the in rank first: I -> R3 -> R4 -> O maps per group. The core has the stride, padding and
    dilation of the dense layer and is transposed where that is. Full rank: (min(I, O K), min(O, I K)) of one group.
    U and V have orthonormal columns. Weights per group: I R3 + K R3 R4 + O R4.

    Args:
        iterations: sweeps of the orthogonal iteration at most; 0 keeps the truncated HOSVD.
        tolerance: stop after a sweep that lowers the squared error by no more than this part of it.
        solver: "ours", or "tensorly" for TensorLy's fit at the same rank, as a reference: the plan of a job then tells
            error and time of both. It has no `tolerance` of ours, and at least one iteration. Ours is the default: it
            has TensorLy's error within 0.05 % and is 12 to 21 times as fast (outputs/reference/decomposition_speed.md).

    Raises:
        ValueError: iterations that are not an integer from 0 on, a negative tolerance, or what the solver has not.

    Source: Kim, Park, Yoo, Choi, Yang, Shin 2016, "Compression of deep convolutional neural networks for fast and low
    power mobile applications"; see `hooi` for the algorithm.

    Differs from the paper:
        1. A rank that the other one cannot use, R3 > R4 K or R4 > R3 K, is obeyed: the core then has slices of zeros.

    >>> [tuple(part.weight.shape) for part in Tucker2().factorize(nn.Conv2d(4, 6, 3), (2, 3))]
    [(2, 4, 1, 1), (3, 2, 3, 3), (6, 3, 1, 1)]
    """

    name = "tucker2"
    cuts = 2
    ladder_follows_weights = True

    def __init__(self, iterations: int = 100, tolerance: float = 1e-3, solver: str = "ours") -> None:
        whole("iterations", iterations, 0, f"tucker2: iterations must be an integer, 0 or more, got {iterations!r}")
        wrong = f"tucker2: tolerance must be a number, 0 or more, got {tolerance!r}"
        positive("tolerance", tolerance, wrong, zero=True, infinite=True)
        self.iterations, self.tolerance = iterations, float(tolerance)
        none = {"iterations=0 (HOSVD)": (iterations == 0, False)}
        self.solver = check_solver(solver, {"tolerance": (self.tolerance, 1e-3), **none})

    def options(self) -> dict[str, Any]:
        options = {"iterations": self.iterations, "tolerance": self.tolerance}
        return options if self.solver == "ours" else {**options, "solver": self.solver}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def full_rank(self, layer: nn.Module) -> tuple[int, int]:
        I, O, K = _sizes(layer)
        return min(I, O * K), min(O, I * K)

    def skeleton(self, layer: nn.Module, rank: tuple[int, int], device: Any = None) -> nn.Sequential:
        compressed, core = (middle(layer, one) for one in rank)
        everywhere = (True,) * axes(layer)
        return nn.Sequential(
            pointwise_like(layer, layer.in_channels, compressed, bias=False, device=device),
            convolution_like(layer, compressed, core, keep=everywhere, bias=False, device=device),
            pointwise_like(layer, core, layer.out_channels, bias=layer.bias is not None, device=device),
        )

    def factorize(self, layer: nn.Module, rank: tuple[int, int]) -> nn.Sequential:
        """Three plain layers with the weights of the orthogonal iteration.

        Raises:
            ValueError: not two integers, or one out of range.
        """
        rank = self.check_rank(layer, rank)
        W_GOIK = kernel_GOIK(layer).flatten(3)
        if self.solver == "tensorly":
            U_GOQ, C_GQRK, V_GIR = tucker2_by_tensorly(W_GOIK, rank, self.iterations)
        else:
            U_GOQ, C_GQRK, V_GIR = hooi(W_GOIK, rank, self.iterations, self.tolerance)
        core = weight_like(layer, C_GQRK.unflatten(3, layer.kernel_size))
        weights = _pointwise(layer, V_GIR.mT), core, _pointwise(layer, U_GOQ)
        return fill_(self.skeleton(layer, rank), weights, layer)

    def energies(self, layer: nn.Module, ranks: Sequence[tuple[int, int]]) -> np.ndarray:
        """Share of the squared norm that the truncated HOSVD keeps at `ranks`; the orthogonal iteration keeps more."""
        return self.kept_at(self.kept_tables(layer), ranks)

    def kept_tables(self, layer: nn.Module) -> tuple[np.ndarray]:
        """The share at every pair of ranks, `(I, O)`."""
        return (kept_shares(kernel_GOIK(layer).flatten(3)),)

    def ladder(self, layer: nn.Module) -> list[tuple[int, int]]:
        """Pairs from (1, 1) to full, each with one rank more: both modes keep what lies above one falling threshold.

        The threshold is on the squared singular values of the two unfoldings, summed over the groups. Without numbers
        (on the meta device) both ranks grow in proportion.
        """
        full = self.full_rank(layer)
        spectra = flat_spectra(full) if layer.weight.is_meta else self.spectra(layer)
        return along_spectra(spectra)

    def spectra(self, layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Squared singular values of the in and of the out unfolding, summed over the groups, falling."""
        W_GOIK = kernel_GOIK(layer).flatten(3)
        return (
            squared_singular_values(W_GOIK.transpose(1, 2).flatten(2)),
            squared_singular_values(W_GOIK.flatten(2)),
        )

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        """The in and the out unfolding, each for its own rank."""
        return channel_unfoldings(kernel_GOIK(layer).flatten(3))

    def factor_weights(self, layer: nn.Module, ranks: Sequence[tuple[int, int]]) -> np.ndarray:
        I, O, K = _sizes(layer)
        R3, R4 = np.asarray(ranks).T
        return layer.groups * np.stack([I * R3, K * R3 * R4, O * R4], axis=1)


class Tucker1(SVDDecomposition):
    r"""Compress the channels of one side only.

    .. math:: \text{out: } W_{o,i,k} \approx \sum_{r=1}^{R} U_{o,r} C_{r,i,k} \qquad
        \text{in: } W_{o,i,k} \approx \sum_{r=1}^{R} C_{o,r,k} V_{i,r}

    Mode "out" is a K x K convolution into R maps, then a 1 x 1 one: it equals channel SVD. Mode "in" is a 1 x 1
    convolution into R maps, then a K x K one: channel SVD in the other order. Full rank: min(O, I K) or min(I, O K) of
    one group.

    Raises:
        ValueError: a mode that is neither "out" nor "in".

    Source: Kim et al. 2016, where the first layer and the last ones keep one channel mode.
    """

    name = "tucker1"

    def __init__(self, mode: str = "out") -> None:
        if mode not in ("out", "in"):
            raise ValueError(f'tucker1: mode must be "out" or "in", got {mode!r}')
        self.mode = mode

    def options(self) -> dict[str, Any]:
        return {"mode": self.mode}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def full_rank(self, layer: nn.Module) -> int:
        I, O, K = _sizes(layer)
        return min(O, I * K) if self.mode == "out" else min(I, O * K)

    def matrices(self, layer: nn.Module) -> Tensor:
        W_GOIK = kernel_GOIK(layer).flatten(3)
        return W_GOIK.flatten(2).mT if self.mode == "out" else W_GOIK.transpose(1, 2).flatten(2)

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        I, O, _ = _sizes(layer)
        if self.mode == "out":
            C_GRIK = left_GMR.mT.unflatten(2, (I, *layer.kernel_size))
            return weight_like(layer, C_GRIK), _pointwise(layer, right_GRN.mT)
        C_GORK = right_GRN.unflatten(2, (O, *layer.kernel_size)).transpose(1, 2)
        return _pointwise(layer, left_GMR.mT), weight_like(layer, C_GORK)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps, everywhere = middle(layer, rank), (True,) * axes(layer)
        bias = layer.bias is not None
        if self.mode == "out":
            return two(
                convolution_like(layer, layer.in_channels, maps, keep=everywhere, bias=False, device=device),
                pointwise_like(layer, maps, layer.out_channels, bias=bias, device=device),
            )
        return two(
            pointwise_like(layer, layer.in_channels, maps, bias=False, device=device),
            convolution_like(layer, maps, layer.out_channels, keep=everywhere, bias=bias, device=device),
        )


def _sizes(layer: nn.Module) -> tuple[int, int, int]:
    """In channels and out channels of one group, and kernel entries."""
    G = layer.groups
    return layer.in_channels // G, layer.out_channels // G, int(np.prod(layer.kernel_size))


def _pointwise(layer: nn.Module, factor_GOI: Tensor) -> Tensor:
    """The weight of a 1 x 1 convolution, `(G O, I, 1 ...)`."""
    return factor_GOI.reshape(-1, factor_GOI.shape[2], *(1,) * axes(layer))
