"""CP: a 1 x 1 convolution into R maps, depthwise convolutions along the kernel, a 1 x 1 convolution out of them.

Legend: G groups, O out channels and I in channels of one group, H x W kernel, K all kernel entries, R rank.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, Rank, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.als_options import ALSOptions
from lowrank_exp.decomposition.fitting.by_tensorly import check_solver, cp_by_tensorly
from lowrank_exp.decomposition.fitting.cp_als import CPFit, cp_als, cp_exact
from lowrank_exp.decomposition.fitting.cp_energies import estimated_energies
from lowrank_exp.decomposition.fitting.cp_stable import norm_constrained
from lowrank_exp.decomposition.fitting.gram import channel_unfoldings
from lowrank_exp.decomposition.svd import wrong_kind
from lowrank_exp.network.cost import CONVOLUTIONS

SPATIAL = ("separate", "merged")


class CP(Decomposition):
    r"""The kernel as a sum of R products of one vector per axis, found by alternating least squares.

    .. math:: W_{o,i,h,w} \approx \sum_{r=1}^{R} a_{o,r}\, b_{i,r}\, c_{h,r}\, d_{w,r}

    `spatial="separate"`: 1 x 1 (I to R maps), H x 1 depthwise, 1 x W depthwise, 1 x 1 (R to O) with the bias.
    `spatial="merged"`: one H x W depthwise convolution between them, `W_{o,i,k} ~ sum a_{o,r} b_{i,r} c_{k,r}`. Stride,
    padding, dilation and output padding lie on the depthwise convolutions, each axis' where that axis is. The norm of a
    component is spread equally over its factors. Full rank: K min(I, O) of one group, exact by the SVDs of the K
    matrices `W[:, :, k]`. Convolutions of one and two axes, transposed too; of three axes where merged.

    Args:
        spatial: "separate" or "merged"; a kernel of one axis is the same in both.
        init: "auto", "slices", "pencil", "hosvd" or "random", see `cp_als`.
        ridge: of the normal equations, relative.
        acceleration: extrapolate the sweeps.
        tolerance: stop when two sweeps in a row lower the error by less than this share.
        max_iterations: sweeps at most.
        max_seconds: per layer; a fit stopped by it warns, and depends on the speed of the machine. None: no limit.
        restarts: further starts that are fitted to the end; the best fit counts.
        stable: afterwards, shrink components that cancel each other, at an error at most 0.1 % higher
            (`norm_constrained`).
        seed: of the random parts of the start.
        solver: "ours", or "tensorly" for TensorLy's fit at the same rank, as a reference: the plan of a job then tells
            error and time of both. Of the options it has `max_iterations`, `stable` and `seed`. Ours is the default: it
            comes to TensorLy's error 89 to 128 times as fast (outputs/reference/decomposition_speed.md), fits all
            groups at once, and its ridge keeps components from growing against each other.

    Raises:
        ValueError: an option out of range, or one that the solver has not.

    Source: Lebedev et al. 2015, "Speeding-up convolutional neural networks using fine-tuned CP-decomposition";
    Denton et al. 2014, "Exploiting linear structure" (merged); Phan et al. 2020 (stable).

    Differs from the paper:
        1. Lebedev et al. solve by non-linear least squares; their code by plain ALS from a random start.
        2. Each group of a grouped convolution is decomposed by itself, at the same rank.
    """

    name = "cp"
    cuts = 2

    def __init__(
        self,
        spatial: str = "separate",
        init: str = "auto",
        ridge: float = 1e-9,
        acceleration: bool = True,
        tolerance: float = 1e-5,
        max_iterations: int = 200,
        max_seconds: float | None = None,
        restarts: int = 0,
        stable: bool = False,
        seed: int = 0,
        solver: str = "ours",
    ) -> None:
        if spatial not in SPATIAL:
            raise ValueError(f"spatial must be separate or merged, got {spatial!r}")
        self.spatial, self.stable = spatial, stable
        self.als = ALSOptions(
            init=init,
            ridge=ridge,
            acceleration=acceleration,
            tolerance=tolerance,
            max_iterations=max_iterations,
            max_seconds=max_seconds,
            restarts=restarts,
            seed=seed,
        )
        ours = {
            "init": "auto",
            "ridge": 1e-9,
            "acceleration": True,
            "tolerance": 1e-5,
            "max_seconds": None,
            "restarts": 0,
        }
        self.solver = check_solver(solver, {name: (getattr(self.als, name), one) for name, one in ours.items()})

    def options(self) -> dict[str, Any]:
        options = {"spatial": self.spatial, **asdict(self.als), "stable": self.stable}
        return options if self.solver == "ours" else {**options, "solver": self.solver}

    def refusal(self, layer: nn.Module) -> str | None:
        if self.spatial == "merged":
            return wrong_kind(layer, self.name, CONVOLUTIONS)
        if type(layer) in (nn.Conv3d, nn.ConvTranspose3d):
            return f"{self.name} takes {type(layer).__name__} with spatial=merged only"
        return wrong_kind(layer, self.name, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d))

    def full_rank(self, layer: nn.Module) -> int:
        return math.prod(layer.kernel_size) * min(layer.in_channels, layer.out_channels) // layer.groups

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps = layer.groups * rank
        depthwise = [
            convolution_like(layer, maps, maps, keep=keep, bias=False, groups=maps, device=device)
            for keep in self._kept(layer)
        ]
        return nn.Sequential(
            pointwise_like(layer, layer.in_channels, maps, bias=False, device=device),
            *depthwise,
            pointwise_like(layer, maps, layer.out_channels, bias=layer.bias is not None, device=device),
        )

    def fit(self, layer: nn.Module, rank: int) -> CPFit:
        """Factors `(G, O, R)`, `(G, I, R)` and one per depthwise convolution, with the error that was reached.

        Raises:
            ValueError: a rank out of range.
        """
        rank = self.check_rank(layer, rank)
        tensor_GOIK = self._tensor(layer)
        if self.solver == "tensorly":
            fit = cp_by_tensorly(tensor_GOIK, rank, self.als.max_iterations, self.als.seed)
        elif rank == self.full_rank(layer):
            return cp_exact(tensor_GOIK, batch_axes=1)
        else:
            fit = cp_als(tensor_GOIK, rank, batch_axes=1, **asdict(self.als))
        return norm_constrained(tensor_GOIK, fit) if self.stable else fit

    def factorize(self, layer: nn.Module, rank: int) -> nn.Sequential:
        rank = self.check_rank(layer, rank)
        a_GOR, b_GIR, *spatial = self.fit(layer, rank).factors
        skeleton, ones = self.skeleton(layer, rank), (1,) * axes(layer)
        first = b_GIR.mT.reshape(-1, b_GIR.shape[1], *ones)
        last = a_GOR.reshape(-1, rank, *ones)
        depthwise = [
            weight_like(factor, c_GKR.mT.reshape(-1, 1, 1, *factor.kernel_size))
            for factor, c_GKR in zip(skeleton[1:-1], spatial, strict=True)
        ]
        return fill_(skeleton, [first, *depthwise, last], layer)

    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """An estimate from short fits at six ranks, see `estimated_energies`."""
        return estimated_energies(self._tensor(layer), ranks, self.full_rank(layer), self.als)

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        """The in and the out unfolding: a sum of R products has no unfolding of a rank above R."""
        return channel_unfoldings(kernel_GOIK(layer).flatten(3))

    def _kept(self, layer: nn.Module) -> list[tuple[bool, ...]]:
        """The axes that each depthwise convolution works along."""
        if self.spatial == "merged":
            return [(True,) * axes(layer)]
        return [tuple(axis == kept for axis in range(axes(layer))) for kept in range(axes(layer))]

    def _tensor(self, layer: nn.Module) -> Tensor:
        """The kernel, `(G, O, I, H, W)` or `(G, O, I, K)`."""
        with torch.no_grad():
            kernel = kernel_GOIK(layer)
        return kernel.flatten(3) if self.spatial == "merged" else kernel
