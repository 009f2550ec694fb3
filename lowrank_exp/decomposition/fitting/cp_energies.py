"""How much of a tensor a CP keeps, estimated for many ranks from few short fits.

Legend: n the size of a mode.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from lowrank_exp.decomposition.fitting.als_options import ALSOptions
from lowrank_exp.decomposition.fitting.cp_als import cp_als
from lowrank_exp.decomposition.fitting.energy import energy_of

_MEASURED, _SWEEPS = 6, 6


def estimated_energies(tensor: Tensor, ranks: Sequence[int], full_rank: int, als: ALSOptions) -> np.ndarray:
    """Share of the squared norm that a CP keeps at `ranks`, `(len(ranks),)`, in [0, 1], rising; an estimate.

    Six ranks, each a constant factor above the last, are fitted by a few sweeps each. A rising curve (Fritsch and
    Carlson's) goes through them over the logarithm of the rank, and reaches 1 where the components have as many numbers
    as the tensor. Measured so, kernels keep a few hundredths less than after a fit to the end. Where at most two modes
    are longer than 1 the share is that of the SVD, exact.

    Args:
        tensor: `(tensors, n_1, ..., n_N)`.
        ranks: from 1 to `full_rank`.
        full_rank: where nothing is lost for certain.
        als: how each is fitted; its init, sweeps and restarts do not count here.
    """
    from scipy.interpolate import PchipInterpolator  # slow to import

    if full_rank == 1 or not tensor.any():  # a layer of zeros loses nothing at any rank
        return np.ones(len(ranks))
    if len(long := [n for n in tensor.shape[1:] if n > 1]) < 3:  # matrices, whose best CP is their SVD
        matrices = tensor.reshape(len(tensor), long[0] if long else 1, -1)
        curve = np.ones(full_rank)
        kept = energy_of(torch.linalg.svdvals(matrices).cpu().numpy())[:full_rank]
        curve[: len(kept)] = kept
        return curve[np.asarray(ranks) - 1]
    last = min(full_rank, _rank_of_full_size(long))
    measured = np.unique(np.geomspace(1, last, _MEASURED + 1).round().astype(int))
    short = asdict(replace(als, init="slices", max_iterations=_SWEEPS, restarts=0))
    kept = [1 - cp_als(tensor, int(rank), batch_axes=1, **short).relative_error ** 2 for rank in measured[:-1]]
    rising = np.maximum.accumulate([*kept, 1.0])
    curve = np.ones(full_rank)
    curve[:last] = PchipInterpolator(np.log(measured), rising)(np.log(np.arange(1, last + 1))).clip(0, 1)
    curve[last - 1] = 1.0
    return np.maximum.accumulate(curve)[np.asarray(ranks) - 1]


def _rank_of_full_size(sizes: Sequence[int]) -> int:
    """The rank at which components have as many numbers as the tensor."""
    return max(2, math.ceil(math.prod(sizes) / (sum(sizes) - len(sizes) + 1)))
