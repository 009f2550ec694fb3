"""The fits of TensorLy, as a reference that may take the place of ours.

TensorLy has no groups: each is fitted by itself, in float64 and NumPy, with TensorLy's own start and its own rule for
when to stop. It is warned of nothing that TensorLy says on the way: more components than a side has are what is asked
for here.

Legend: G groups, O out channels and I in channels of one group, K all kernel entries, n any mode, R rank.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrank_exp.checks import one_of
from lowrank_exp.decomposition.fitting.cp_als import CPFit
from lowrank_exp.decomposition.fitting.cp_sweep import balance
from lowrank_exp.decomposition.fitting.hooi import Tucker2Factors

SOLVERS = ("ours", "tensorly")


def check_solver(solver: str, ours_alone: Mapping[str, tuple[Any, Any]]) -> str:
    """`solver`, if there is such a one and no option is set that TensorLy does not have.

    Args:
        solver: `ours` or `tensorly`.
        ours_alone: options by name that only our solver has: what they are, and what they are by default.

    Raises:
        ValueError: there is not, or there is.
    """
    one_of("solver", solver, SOLVERS)
    if solver != "ours" and (set_to := [name for name, (value, default) in ours_alone.items() if value != default]):
        raise ValueError(
            f"solver={solver} has no {', '.join(set_to)} of ours: leave {'them' if len(set_to) > 1 else 'it'} out, or "
            "take solver=ours"
        )
    return solver


def cp_by_tensorly(tensor_GN: Tensor, rank: int, sweeps: int, seed: int) -> CPFit:
    """`parafac` of tensors `(G, n_1, n_2 ...)` in the place of `cp_als`, from an SVD of every unfolding.

    Raises:
        ValueError: its normal equations are singular.
    """

    def fit(tensor: np.ndarray) -> tuple[list[np.ndarray], int]:
        from tensorly.decomposition import parafac

        (weights, factors), errors = parafac(tensor, rank, sweeps, random_state=seed, return_errors=True)
        return [factors[0] * weights, *factors[1:]], len(errors)

    found = _by_group(fit, tensor_GN, rank)
    factors_GRn = balance([_stack([group[mode].T for group, _ in found]) for mode in range(tensor_GN.dim() - 1)])
    factors = tuple(factor.mT.to(tensor_GN) for factor in factors_GRn)
    norms_G, left_G = tensor_GN.double().flatten(1).norm(dim=1), _residual(tensor_GN, factors)
    errors_G = torch.where(norms_G > 0, left_G / norms_G, 0.0)
    total = float(left_G.norm() / norms_G.norm()) if norms_G.any() else 0.0
    return CPFit(factors, total, errors_G, max(count for _, count in found), "TensorLy's own rule")


def tucker2_by_tensorly(kernel_GOIK: Tensor, rank: tuple[int, int], sweeps: int) -> Tucker2Factors:
    """`partial_tucker` of both channel modes, in the place of `hooi`."""
    R, Q = rank

    def fit(kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        from tensorly.decomposition import partial_tucker

        (core, (U, V)), _ = partial_tucker(kernel, (Q, R), modes=[0, 1], n_iter_max=sweeps, random_state=0)
        return U, core, V

    found = _by_group(fit, kernel_GOIK, rank)
    return Tucker2Factors(*(_stack(parts).to(kernel_GOIK) for parts in zip(*found, strict=True)))


def train_by_tensorly(tensor_GN: Tensor, rank: Sequence[int]) -> list[Tensor]:
    """The cores of `tensor_train` of every group, in the place of `tt_svd`."""

    def fit(tensor: np.ndarray) -> list[np.ndarray]:
        from tensorly.decomposition import tensor_train

        return list(tensor_train(tensor, [1, *rank, 1]))

    return [_stack(cores).to(tensor_GN) for cores in zip(*_by_group(fit, tensor_GN, rank), strict=True)]


def _by_group(fit: Callable, tensors_GN: Tensor, rank: Any) -> list:
    """What `fit` makes of every group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorly

        with tensorly.backend_context("numpy", local_threadsafe=True):
            try:
                return [fit(tensor) for tensor in tensors_GN.detach().double().cpu().numpy()]
            except np.linalg.LinAlgError as error:
                raise ValueError(f"TensorLy has no solution at rank {rank} ({error}): take solver=ours") from error


def _stack(arrays: Iterable[np.ndarray]) -> Tensor:
    stacked = torch.from_numpy(np.stack(list(arrays)))
    if not stacked.isfinite().all():
        raise ValueError("TensorLy's factors are not finite: take solver=ours")
    return stacked


def _residual(tensor_GN: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Norm of what the components leave of every tensor, `(G,)`."""
    letters = "abcdefgh"[: len(factors)]
    terms = ",".join(f"z{letter}r" for letter in letters)
    made = torch.einsum(f"{terms}->z{letters}", *(factor.double() for factor in factors))
    return (tensor_GN.double() - made).flatten(1).norm(dim=1)
