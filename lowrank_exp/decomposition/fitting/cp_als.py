"""CP of a tensor by alternating least squares on Gram matrices.

Legend: B tensors at once, O the first mode, P all others together, n any mode, R rank. Factors inside this file are
`(B, R, n)`.
"""

import math
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank_exp.decomposition.fitting.cp_start import STARTS, slices, start, starts
from lowrank_exp.decomposition.fitting.cp_sweep import (
    Extrapolation,
    balance,
    choose,
    least_squares,
    norm_squared,
    outer,
    sweep,
)

# After the first sweep the ridge is the squared relative error, at most the first number; it falls by the second.
_DAMPING, _DECAY = 0.1, 0.85
# Below this relative error the squared error of float32 sums has no correct digits to steer by.
_ENOUGH_FOR_FLOAT32 = 1e-2
_EXACT = 1e-7  # below it the squared error of float64 sums is rounding


class CPFit(NamedTuple):
    """What `cp_als` found.

    Attributes:
        factors: one matrix `(*batch, n, R)` per mode; every component's norm is spread equally over them.
        relative_error: `||T - That|| / ||T||` over all tensors together, measured on the residual itself.
        errors: that of every tensor, `(*batch,)`; 0 for a tensor of zeros.
        iterations: sweeps over all modes.
        stopped_because: "exact", "target error", "no change", "iterations" or "time".
    """

    factors: tuple[Tensor, ...]
    relative_error: float
    errors: Tensor
    iterations: int
    stopped_because: str


def cp_als(
    tensor: Tensor,
    rank: int,
    *,
    batch_axes: int = 0,
    init: str | Sequence[Tensor] = "auto",
    ridge: float = 1e-9,
    acceleration: bool = True,
    tolerance: float = 1e-6,
    max_iterations: int = 300,
    max_seconds: float | None = None,
    target_error: float = 0.0,
    restarts: int = 0,
    seed: int = 0,
) -> CPFit:
    r"""The sum of `rank` rank-one tensors that comes close to `tensor`, by alternating least squares.

    .. math:: T_{o,i,\dots} \approx \sum_{r=1}^{R} a_{o,r} b_{i,r} \cdots, \quad
        A \leftarrow T_{(1)} (B \odot C \odot \cdots) \big[(B^\top B) * (C^\top C) * \cdots + \rho I\big]^{-1}

    A sweep needs two matrix products of the tensor, whatever the number of modes: `A^T T_(1)`, from which all modes but
    the first are solved one after the other, and `T_(1) (B . C ...)` for the first. After a sweep the factors are
    extrapolated along their last change; where that made the error rise the sweep is undone, so errors never rise. A
    first mode longer than all others together is first expressed in a basis of its column space, which loses nothing.

    Args:
        tensor: `(*batch, n_1, ..., n_N)` of float32 or float64, two modes or more; best with the largest mode first.
        rank: number of components.
        batch_axes: leading axes that count tensors, each fitted by itself.
        init: "slices" (largest singular components of the matrices of the first two modes), "pencil" (exact for a
            tensor of that rank, where the first two modes are no smaller), "auto" (of these two the one that a sweep
            likes better), "hosvd" (singular vectors of every unfolding), "random" (Gaussian), or one matrix
            `(*batch, n, rank)` per mode.
        ridge: added to the normal equations, relative to the mean of their diagonal.
        acceleration: extrapolate.
        tolerance: stop when two sweeps in a row lower the relative error by less than this share of it.
        max_iterations: sweeps at most.
        max_seconds: stop after this time, with a warning. The result then depends on how fast the machine is. None: do
            not look at the time.
        target_error: stop at this relative error.
        restarts: further starts, "hosvd" and then "random" ones, from which every tensor is fitted as well; of all its
            fits every tensor takes the best. Small tensors have local minima.
        seed: of "random", of what "hosvd" fills up with, and of the sketch that "slices" begins with.

    Raises:
        ValueError: an unknown init, factors of other shapes, or numbers out of range.

    Source: Kolda and Bader 2009, "Tensor decompositions and applications"; extrapolation after Ang and
    Gillis 2019, "Accelerating nonnegative matrix factorization algorithms using extrapolation".

    Differs from the paper:
        1. The normal equations have a ridge and are solved by Cholesky, not by a pseudo-inverse. After the first sweep
           it is the squared relative error (at most 0.1) and falls by 15 % a sweep to `ridge`: so components do not
           grow against each other early on, which would take hundreds of sweeps to undo.
        2. Float32 tensors are computed in float32 until their relative error is below 1e-2, in float64 from there on.

    >>> a, b, c = torch.eye(4)[:, :2], torch.eye(3)[:, :2], torch.eye(3)[:, 1:]
    >>> fit = cp_als(torch.einsum("or,ir,kr->oik", a, b, c), 2)
    >>> fit.relative_error < 1e-5, [tuple(factor.shape) for factor in fit.factors]
    (True, [(4, 2), (3, 2), (3, 2)])
    """
    max_seconds = math.inf if max_seconds is None else max_seconds
    batch, sizes = tensor.shape[:batch_axes], tensor.shape[batch_axes:]
    _check(sizes, rank, max_iterations, ridge, tolerance, max_seconds, target_error, restarts)
    tensor_BN = tensor.detach().reshape(-1, *sizes)
    basis_BOP, core_BN = _compress(tensor_BN)  # sweeps cost in proportion to the first mode
    if isinstance(init, str):
        factors = _choose_best(core_BN, starts(core_BN, rank, init, seed), ridge)
    else:
        first, *others = _check_given(init, batch, sizes, rank, tensor)
        factors = [first if basis_BOP is None else first @ basis_BOP, *others]
    for restart in range(restarts):
        further = start(core_BN, rank, "random" if restart else "hosvd", seed + restart)
        factors = [torch.cat(pair) for pair in zip(factors, further, strict=True)]
    # Restarts are further tensors of the batch, so that all descend in the same matrix products.
    core_BN = core_BN.repeat(1 + restarts, *[1] * len(sizes))
    factors, error_B, iterations, reason = _descend(
        core_BN, factors, ridge, acceleration, tolerance, max_iterations, max_seconds, target_error, 1 + restarts
    )
    best_B = error_B.unflatten(0, (1 + restarts, -1)).argmin(0)
    factors = [f.unflatten(0, (1 + restarts, -1))[best_B, torch.arange(len(best_B), device=f.device)] for f in factors]
    if basis_BOP is not None:
        factors = [factors[0] @ basis_BOP.mT.to(factors[0].dtype), *factors[1:]]
    fit = measure_fit(tensor_BN, factors, batch, iterations, reason)
    if reason == "time":
        warnings.warn(
            f"CP of a tensor {tuple(sizes)} at rank {rank} was stopped after {max_seconds:g} s and {iterations} sweeps "
            f"at relative error {fit.relative_error:.4g}, still falling; allow more max_seconds for a result that does "
            "not depend on the speed of the machine",
            stacklevel=2,
        )
    return fit


def _compress(tensor_BN: Tensor) -> tuple[Tensor | None, Tensor]:
    """Where the first mode is longer than all others together: a basis of it, and the tensor in that basis."""
    _, O, *others = tensor_BN.shape
    if math.prod(others) >= O:
        return None, tensor_BN
    basis_BOP, core_BPP = torch.linalg.qr(tensor_BN.flatten(2))
    return basis_BOP, core_BPP.unflatten(2, others)


def cp_exact(tensor: Tensor, *, batch_axes: int = 0) -> CPFit:
    """The CP of `n_3 ... n_N min(n_1, n_2)` components that equals `tensor`: the SVDs of all `tensor[:, :, k]`."""
    batch, sizes = tensor.shape[:batch_axes], tensor.shape[batch_axes:]
    tensor_BN = tensor.detach().reshape(-1, *sizes)
    return measure_fit(tensor_BN, slices(tensor_BN, min(sizes[:2]) * math.prod(sizes[2:])), batch, 0, "exact")


def measure_fit(tensor_BN: Tensor, factors: list[Tensor], batch: Sequence[int], iterations: int, reason: str) -> CPFit:
    """The fit with factors `(B, R, n)`, its errors measured."""
    factors = balance(factors)
    error, error_B = relative_errors(tensor_BN, factors)
    shaped = tuple(f.mT.to(tensor_BN.dtype).reshape(*batch, *f.mT.shape[1:]) for f in factors)
    return CPFit(shaped, error, error_B.reshape(batch), iterations, reason)


def _choose_best(tensor_BN: Tensor, candidates: list[list[Tensor]], ridge: float) -> list[Tensor]:
    """For every tensor the start after which a sweep keeps most."""
    if len(candidates) == 1:
        return candidates[0]
    solve = least_squares(torch.full((len(tensor_BN),), ridge, dtype=torch.float64, device=tensor_BN.device))
    tried = [sweep(tensor_BN.flatten(2), factors, solve) for factors in candidates]
    factors, kept_B = tried[0]
    for swept, kept in tried[1:]:
        factors = [choose(kept > kept_B, s, f) for s, f in zip(swept, factors, strict=True)]
        kept_B = torch.maximum(kept_B, kept)
    return factors


def _descend(
    tensor_BN: Tensor,
    factors: list[Tensor],
    ridge: float,
    acceleration: bool,
    tolerance: float,
    max_iterations: int,
    max_seconds: float,
    target_error: float,
    fits: int,
) -> tuple[list[Tensor], Tensor, int, str]:
    """Sweeps until one of the reasons to stop; the best factors, errors, number of sweeps and reason.

    The batch holds every tensor `fits` times; a tensor's error is the least of its fits.
    """
    began = time.perf_counter()
    tensor_BOP = tensor_BN.flatten(2)
    squared_norm_B = norm_squared(tensor_BOP)
    scale_B = squared_norm_B.where(squared_norm_B > 0, 1.0)
    all_tensors = squared_norm_B.sum().where(squared_norm_B.sum() > 0, 1.0) / fits
    best_B = torch.full_like(scale_B, math.inf)
    quiet_B, damping_B = torch.zeros_like(scale_B), torch.zeros_like(scale_B)
    guess, extrapolation = factors, Extrapolation(factors, acceleration)
    for iteration in range(1, max_iterations + 1):
        ridge_B = ridge + damping_B * _DECAY**iteration
        swept, kept_B = sweep(tensor_BOP, guess, least_squares(ridge_B))
        error_B = ((squared_norm_B - kept_B).clamp(min=0) / scale_B).sqrt()
        better_B = error_B <= best_B
        # Two quiet sweeps in a row end a fit: one may come from a step that was too short.
        quiet_B = torch.where((best_B - error_B).abs() <= tolerance * error_B, quiet_B + 1, 0)
        best_B = torch.minimum(best_B, error_B)
        if iteration == 1:
            damping_B = (error_B**2).clamp(max=_DAMPING)
        guess = extrapolation.beyond(swept, better_B)
        if tensor_BOP.dtype == torch.float32 and bool((best_B < _ENOUGH_FOR_FLOAT32).any()):
            # Errors in float32 carry its rounding: none of them may stand against one in float64.
            tensor_BOP, best_B = tensor_BOP.double(), torch.full_like(best_B, math.inf)
            guess, extrapolation.best = [g.double() for g in guess], [f.double() for f in extrapolation.best]
        reached_B = best_B.unflatten(0, (fits, -1)).amin(0)
        total = float(((reached_B**2 * squared_norm_B[: len(reached_B)]).sum() / all_tensors).sqrt())
        reason = None
        if total <= _EXACT:
            reason = "exact"
        elif total <= target_error:
            reason = "target error"
        elif bool((quiet_B >= 2).all()):
            reason = "no change"
        elif time.perf_counter() - began > max_seconds:
            reason = "time"
        if reason:
            return extrapolation.best, best_B, iteration, reason
    return extrapolation.best, best_B, max_iterations, "iterations"


def relative_errors(tensor_BN: Tensor, factors: list[Tensor]) -> tuple[float, Tensor]:
    """`||T - That|| / ||T||` of all tensors together and of each, `(B,)`, from the residual; 0 for zeros."""
    tensor_BOP = tensor_BN.flatten(2).to(factors[0].dtype)
    residual_BOP = torch.baddbmm(tensor_BOP, factors[0].mT, outer(factors[1:]), alpha=-1)
    lost_B, squared_B = norm_squared(residual_BOP), norm_squared(tensor_BOP)
    total = float((lost_B.sum() / squared_B.sum()).sqrt()) if squared_B.sum() > 0 else 0.0
    return total, (lost_B / squared_B).sqrt().where(squared_B > 0, 0.0)


def _check_given(init: Sequence[Tensor], batch: Sequence[int], sizes: Sequence[int], rank: int, tensor: Tensor) -> list:
    wanted, got = [(*batch, n, rank) for n in sizes], [tuple(factor.shape) for factor in init]
    if got != wanted:
        raise ValueError(f"init must be one of {STARTS} or factors of shapes {wanted}, got factors of shapes {got}")
    return [factor.to(tensor).reshape(-1, *factor.shape[-2:]).mT for factor in init]


def _check(sizes: Sequence[int], rank: int, max_iterations: int, *least_zero: float) -> None:
    if len(sizes) < 2:
        raise ValueError(f"a CP needs two modes or more, got a tensor of sizes {tuple(sizes)}")
    if rank < 1 or max_iterations < 1:
        raise ValueError(f"rank and max_iterations must be 1 or more, got {rank} and {max_iterations}")
    if not all(number >= 0 for number in least_zero):
        names = "ridge, tolerance, max_seconds, target_error and restarts"
        raise ValueError(f"{names} must be 0 or more, got {', '.join(map(str, least_zero))}")
