"""A CP whose components do not cancel: the least sensitive one within an error bound.

Legend: B tensors at once, N modes, n the size of one, R rank. Factors are `(B, R, n)`, a row is a component.
"""

import math

import torch
from torch import Tensor

from lowrank_exp.decomposition.fitting.cp_als import CPFit, measure_fit, relative_errors
from lowrank_exp.decomposition.fitting.cp_sweep import Extrapolation, balance, norm_squared, sweep


def norm_constrained(
    tensor: Tensor, fit: CPFit, *, slack: float = 1e-3, tolerance: float = 1e-4, max_iterations: int = 300
) -> CPFit:
    r"""From a fit, the nearby components of least sensitivity whose error is at most `1 + slack` times as large.

    .. math:: \min \sum_{r} \sum_{n} \prod_{m \ne n} \|a^{(m)}_r\|^2 \quad\text{s.t.}\quad
        \|T - \hat T\| \le \delta = (1 + \text{slack})\, \|T - \hat T_{\text{fit}}\|

    With all factors but one fixed this is a ridge problem `A = M (G + mu W)^-1` whose mu makes the error equal delta;
    in the eigenvectors of `W^-1/2 G W^-1/2` the error is a rising function of mu alone, so mu is found by a search.
    Components that grow against each other shrink to what the error needs, and fine-tuning becomes possible.

    Args:
        tensor: `(*batch, n_1, ..., n_N)`, the one that was fitted.
        fit: what `cp_als` found.
        slack: share by which the error may grow, of every tensor by itself.
        tolerance: stop when two sweeps in a row lower the sensitivity by less than this share.
        max_iterations: sweeps at most.

    Raises:
        ValueError: a negative slack.

    Source: Phan et al. 2020, "Stable low-rank tensor decomposition for compression of convolutional neural network",
    (error-preserving correction).

    Differs from the paper:
        1. Any number of modes; the norms are spread equally over the factors before every sweep.
        2. Sweeps are extrapolated, as those of `cp_als`; one that breaks the bound or raises the sensitivity is undone.
        3. mu comes from a search on a grid that is refined, in float64.
    """
    if slack < 0:
        raise ValueError(f"slack must be 0 or more, got {slack}")
    batch, modes = fit.errors.shape, len(fit.factors)
    tensor_BN = tensor.detach().reshape(-1, *tensor.shape[tensor.ndim - modes :])
    tensor_BOP = tensor_BN.flatten(2).double()
    factors = [f.double().reshape(-1, *f.shape[-2:]).mT for f in fit.factors]
    squared_norm_B = norm_squared(tensor_BOP)
    _, error_B = relative_errors(tensor_BN.double(), factors)
    bound_B = squared_norm_B * (error_B * (1 + slack)) ** 2

    kept_B = squared_norm_B - bound_B

    def solve(gram_BRR: Tensor, mttkrp_BRn: Tensor, factors: list[Tensor], mode: int) -> Tensor:
        return _least_norm(gram_BRR, mttkrp_BRn, _weights(factors, mode), kept_B)

    guess = balance(factors)
    extrapolation, least_B, sweeps, quiet = Extrapolation(guess), sensitivity(guess), 0, 0
    while sweeps < max_iterations and quiet < 2:
        swept, now_kept_B = sweep(tensor_BOP, guess, solve)
        swept, sweeps = balance(swept), sweeps + 1
        sensitivity_B = sensitivity(swept)
        # An extrapolated sweep may break the bound or raise the sensitivity: then it is not taken.
        better_B = (sensitivity_B <= least_B) & (now_kept_B >= kept_B - 1e-9 * bound_B)
        lowered_B = torch.where(better_B, 1 - sensitivity_B / least_B.clamp(min=1e-300), 0.0)
        quiet = quiet + 1 if bool((lowered_B <= tolerance).all()) else 0
        least_B = torch.where(better_B, sensitivity_B, least_B)
        guess = extrapolation.beyond(swept, better_B)
    return measure_fit(tensor_BN, extrapolation.best, batch, fit.iterations + sweeps, fit.stopped_because)


def sensitivity(factors: list[Tensor]) -> Tensor:
    """Expected squared change of the tensor for noise of variance 1 on all factors, up to the modes' sizes; `(B,)`."""
    return sum(_weights(factors, mode).sum(1) for mode in range(len(factors)))


def _weights(factors: list[Tensor], mode: int) -> Tensor:
    """What a squared entry of every row of the factor of `mode` adds to the sensitivity, `(B, R)`."""
    squared = [(f**2).sum(2) for f in factors]
    others = [s for m, s in enumerate(squared) if m != mode]
    return sum(math.prod(others[:left] + others[left + 1 :]) for left in range(len(others)))


def _least_norm(gram_BRR: Tensor, mttkrp_BRn: Tensor, weights_BR: Tensor, kept_B: Tensor) -> Tensor:
    """The factor of least weighted norm that keeps at least `kept_B` of the squared norm of the tensor."""
    scale_BR1 = weights_BR.clamp(min=1e-300).rsqrt()[..., None]
    # In these eigenvectors the normal equations are diagonal at every mu: one decomposition serves the whole search.
    values_BR, vectors_BRR = torch.linalg.eigh(scale_BR1 * gram_BRR * scale_BR1.mT)
    values_BR = values_BR.clamp(min=1e-14 * values_BR[:, -1:])
    turned_BRn = vectors_BRR.mT @ (scale_BR1 * mttkrp_BRn)
    power_BR = (turned_BRn**2).sum(2)
    # log mu lies between these; five rounds, each of which narrows the range 31 times.
    low_B = values_BR[:, -1].clamp(min=1e-300).log() - 32.0
    high_B = low_B + 64.0
    steps_S = torch.linspace(0, 1, 32, dtype=torch.float64, device=low_B.device)
    for _ in range(5):
        grid_BS = low_B[:, None] + (high_B - low_B)[:, None] * steps_S
        mu_BS1 = grid_BS.exp()[..., None]
        lambda_B1R = values_BR[:, None]
        kept_BS = (power_BR[:, None] * (lambda_B1R + 2 * mu_BS1) / (lambda_B1R + mu_BS1) ** 2).sum(2)
        last_B1 = ((kept_BS >= kept_B[:, None]).sum(1, keepdim=True) - 1).clamp(0, 30)
        low_B, high_B = grid_BS.gather(1, last_B1)[:, 0], grid_BS.gather(1, last_B1 + 1)[:, 0]
    return scale_BR1 * (vectors_BRR @ (turned_BRn / (values_BR + low_B.exp()[:, None])[..., None]))
