"""Empirical variational Bayesian matrix factorization: what of a matrix stands above its noise.

Legend: L rows and M columns of a matrix (L <= M, else transposed), alpha = L / M, s singular values `(L,)`, falling;
sigma2 variance of the noise, x = s^2 / (M sigma2), tau strength of a component: x = (1 + tau)(1 + alpha / tau);
x_bar the x above which one is kept, tau_bar its strength; z = 1 / (M sigma2), t = log z.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
from torch import Tensor

SOLVERS = ("global", "reference")
# The search of the reference stops here, whatever the size of sigma2: ranks published with it depend on that.
REFERENCE_TOLERANCE = 1e-5


class EVBMF(NamedTuple):
    """What stands above the noise: singular values beyond `threshold`, of which `shrunk` `(rank,)` is signal."""

    rank: int
    sigma2: float  # variance of the noise in one entry; 0 where there is none
    threshold: float
    shrunk: np.ndarray


def evbmf_rank(matrix: np.ndarray | Tensor, solver: str = "global", sigma2: float | None = None) -> int:
    """The EVBMF rank of a matrix `(N, M)`; see `evbmf_solution`.

    Warns where it is 0: nothing stands above the noise.

    Raises:
        ValueError: it is not a matrix, or has entries that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> signal = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 90))
    >>> evbmf_rank(signal + 0.5 * rng.normal(size=(40, 90)))
    3
    """
    s = singular_values(matrix)
    rows, columns = matrix.shape
    solution = evbmf_solution(s, rows, columns, solver, sigma2)
    if solution.rank == 0:
        warnings.warn(f"nothing in this {rows} x {columns} matrix stands above the noise: EVBMF rank 0", stacklevel=2)
    return solution.rank


def evbmf_solution(
    singular_values: np.ndarray, rows: int, columns: int, solver: str = "global", sigma2: float | None = None
) -> EVBMF:
    r"""The global solution of empirical variational Bayesian matrix factorization, from singular values alone.

    .. math:: r = \#\{h : s_h > \sqrt{M \sigma^2 \bar{x}}\}, \qquad d_h = M \sigma^2 \tau_h / s_h

    where sigma2, unless given, minimizes the free energy

    .. math:: \Omega(\sigma^2) = \sum_h (x_h - \log x_h)
        + \sum_{x_h > \bar{x}} \left(\log(\tau_h + 1) + \alpha \log(\tau_h / \alpha + 1) - \tau_h\right)

    Args:
        singular_values: all of them, `(L,)`, in any order. What is below sqrt(L eps) of the largest counts as zero:
            the eigenvalues of a Gram matrix do not tell more.
        rows: L or M.
        columns: the other one.
        solver: "global" finds the least of all minima and takes the exact tau_bar. "reference" repeats what the
            widely used implementation does: tau_bar = 2.5129 sqrt(alpha), and a bounded scalar search that stops at an
            absolute 1e-5 in one of the minima or before. Weights are so small that the two differ in many layers;
            published ranks are mostly those of the reference.
        sigma2: the variance of the noise, where it is known.

    Raises:
        ValueError: the number of singular values is not that of the matrix, one is negative or not finite, the solver
            is unknown, or sigma2 is not positive.

    Source: Nakajima, Sugiyama, Babacan, Tomioka 2013, "Global analytic solution of fully-observed variational Bayesian
    matrix factorization", JMLR 14; for sigma2: Nakajima, Tomioka, Sugiyama, Babacan 2012, "Perfect
    dimensionality recovery by variational Bayesian PCA".

    Differs from the paper:
        1. The constant sum of log s_h^2 is left out of Omega, so that zeros do no harm. With so many of them that Omega
           falls without bound towards sigma2 = 0, sigma2 is 0 ("global") and what is not zero is kept.
    """
    check_solver(solver)
    s = _check_values(singular_values, rows, columns)
    if sigma2 is not None and not (math.isfinite(sigma2) and sigma2 > 0):
        raise ValueError(f"sigma2={sigma2!r} is not a variance of noise: it must be above 0, or None to be estimated")
    L, M = sorted((rows, columns))
    alpha = L / M
    tau_bar = strength_bar(alpha) if solver == "global" else 2.5129 * math.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    if sigma2 is None and s[0] > 0:
        sigma2 = _minimise_globally(s, M, x_bar) if solver == "global" else _minimise_as_reference(s, M, x_bar)
    if not sigma2:
        return EVBMF(int(np.count_nonzero(s)), 0.0, 0.0, s[s > 0])
    threshold = math.sqrt(M * sigma2 * x_bar)
    kept = s[s > threshold]
    return EVBMF(len(kept), sigma2, threshold, M * sigma2 * strength(kept**2 / (M * sigma2), alpha) / kept)


def singular_values(matrix: np.ndarray | Tensor) -> np.ndarray:
    """All singular values of a matrix, falling, by the eigenvalues of its smaller Gram matrix in float64.

    Raises:
        ValueError: no matrix, or entries that are not finite.
    """
    Y = matrix.detach().double().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix, np.float64)
    if Y.ndim != 2 or Y.size == 0:
        raise ValueError(f"EVBMF takes a matrix with rows and columns, got the shape {Y.shape}")
    if not np.isfinite(Y).all():
        raise ValueError("the matrix has entries that are not finite, which EVBMF cannot take")
    Y = Y if Y.shape[0] <= Y.shape[1] else Y.T
    return np.sqrt(np.linalg.eigvalsh(Y @ Y.T).clip(min=0))[::-1]


def strength(x: np.ndarray, alpha: float) -> np.ndarray:
    """tau at x, for x of at least `(1 + sqrt(alpha))^2`."""
    above = x - (1 + alpha)
    return (above + np.sqrt(above**2 - 4 * alpha)) / 2


def strength_bar(alpha: float) -> float:
    """tau_bar, from which on a component lowers the free energy: `log(1 + tau) + alpha log(1 + tau / alpha) = tau`.

    >>> [round(strength_bar(alpha), 5) for alpha in (1, 0.1)]
    [2.51286, 0.82221]
    """
    tau = 2.5129 * math.sqrt(alpha)
    while True:  # Newton's method on a function that falls and is concave beyond sqrt(alpha)
        gain = math.log1p(tau) + alpha * math.log1p(tau / alpha) - tau
        step = gain * (tau + 1) * (tau + alpha) / (tau**2 - alpha)
        tau += step
        if abs(step) <= 1e-10 * tau:  # the next one would be its square
            return tau


def _minimise_globally(s: np.ndarray, M: int, x_bar: float) -> float:
    """The sigma2 of the least of all minima of the free energy; 0 where it falls without bound.

    Between the z at which one more component is kept, the slope of Omega along t is convex, and where one is added it
    drops. So Omega has one minimum at most in each of these intervals and none at its ends: where the slope turns
    positive for good, to which Newton's method falls from the right end without overshooting.
    """
    L = len(s)
    alpha = L / M
    squares = (s[s > 0] / s[0]) ** 2
    if len(squares) * (1 + alpha) < L:
        return 0.0
    z_bar = x_bar / squares
    starts = np.concatenate([[0.0], z_bar[:-1]])  # of the interval in which k components are kept, k = 0, 1 ...
    rest = np.cumsum(squares[::-1])[::-1]  # squares of those that are not
    dropped = L - np.arange(len(squares)) * (1 + alpha)

    minima = []
    for k in np.flatnonzero(rest * starts <= dropped):  # elsewhere the slope is positive throughout
        t = _find_minimum(squares[:k], rest[k], dropped[k], alpha, starts[k], z_bar[k])
        if t is not None:
            tau = strength(squares[:k] * math.exp(t), alpha)
            gain = np.sum(np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau)
            minima.append((squares.sum() * math.exp(t) - L * t + gain, t))
    _, t = min(minima)
    return float(s[0]) ** 2 / (M * math.exp(t))


def _find_minimum(
    kept: np.ndarray, rest: float, dropped: float, alpha: float, start: float, end: float
) -> float | None:
    """The t at which Omega has its minimum for z in `[start, end]`, where `kept` are kept; None without one."""
    t = math.log(end)
    while True:
        x = kept * math.exp(t)
        tau = strength(x, alpha)
        slope = rest * math.exp(t) - dropped + alpha * np.sum(1 / tau)
        if slope <= 0:  # at the end: it never turns positive; later: by rounding, at the root
            return t if t < math.log(end) else None
        rise = rest * math.exp(t) - alpha * np.sum(x / (tau**2 - alpha))
        if rise <= 0:
            return None
        step = slope / rise
        t -= step
        if math.exp(t) < start:
            return None
        if step <= 1e-13:
            return t


def _minimise_as_reference(s: np.ndarray, M: int, x_bar: float) -> float:
    """The sigma2 of a bounded scalar search between the bounds of the paper."""
    from scipy.optimize import minimize_scalar

    L = len(s)
    alpha = L / M

    def omega(sigma2: float) -> float:
        x = s**2 / (M * sigma2)
        tau = strength(x[x > x_bar], alpha)
        gain = np.sum(np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau)
        return float(np.sum(x) + L * np.log(sigma2) + gain)

    H_bar = math.ceil(L / (1 + alpha)) - 1
    upper = float(np.sum(s**2)) / (L * M)
    lower = min(max(s[H_bar] ** 2 / (M * x_bar), np.mean(s[H_bar:] ** 2) / M), upper)
    minimum = minimize_scalar(omega, bounds=(lower, upper), method="bounded", options={"xatol": REFERENCE_TOLERANCE})
    return float(minimum.x)


def check_solver(solver: str) -> None:
    """Nothing, if there is such a solver.

    Raises:
        ValueError: there is not.
    """
    if solver not in SOLVERS:
        raise ValueError(
            f"solver={solver!r} is not known: global (the least free energy) or reference (as published ranks)"
        )


def _check_values(singular_values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Falling singular values; what cannot be told from zero is zero."""
    s = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1]
    if s.shape != (min(rows, columns),) or not len(s):
        raise ValueError(
            f"a {rows} x {columns} matrix has {min(rows, columns)} singular values, got an array of the shape {s.shape}"
        )
    if not np.isfinite(s).all() or s[-1] < 0:
        raise ValueError(f"singular values must be finite and 0 or more, got values from {s[-1]} to {s[0]}")
    return np.where(s > s[0] * math.sqrt(len(s) * np.finfo(np.float64).eps), s, 0.0)
