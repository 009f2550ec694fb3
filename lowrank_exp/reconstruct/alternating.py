r"""Least squares under the second moments of a layer's inputs, for any chain of factors: one factor at a time.

Legend: G groups, O out channels of one group, D = I K entries of a patch; W the target, What the weight that the
factors w_1 ... w_n stand for, linear in each of them; M second moments of the inputs, r residual of the normal
equations.
"""

import math

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.convolution import TRANSPOSED
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.reconstruct.held_rows import HeldRows, times
from lowrank_exp.reconstruct.kronecker import Solve, cholesky_of_seen, inverse_near

EXACT = 1e-12  # of the squared norm of the responses: an error below it is none
VERSION = 4  # raised by hand whenever the same start and data give other weights; 3 began with the last factor


def chain_refusal(chain: nn.Module) -> str | None:
    """Why the factors of `chain` cannot be fitted one at a time; None where they can."""
    if not isinstance(chain, nn.Sequential):
        return f"it leaves a single {type(chain).__name__}, not a chain of factors"
    if other := [type(part).__name__ for part in chain if type(part) not in (*LAYERS, Reorder)]:
        return f"its chain has {other[0]} in it, which is not a plain layer"
    factors = [part for part in chain if not isinstance(part, Reorder)]
    if len(factors) < 2:
        return "it leaves a single layer with a weight, not a chain of factors"
    kernels = zip(*(getattr(factor, "kernel_size", ()) for factor in factors), strict=True)
    if any(sum(size > 1 for size in axis) > 1 for axis in kernels):
        return "two of its factors have a kernel along the same axis"
    return None


def dense_GOD(parts: list[nn.Module], weights: list[Tensor], groups: int) -> Tensor:
    """The weight that `weights` make in the place of those of `parts`, `(G, O, D)`; differentiable."""
    return _blocks(_kernel_through(_identity_kernel(_channels_into(parts), weights[0]), parts, weights), groups)


def _channels_into(parts: list[nn.Module]) -> int:
    first = next(part for part in parts if not isinstance(part, Reorder))
    return first.in_features if isinstance(first, nn.Linear) else first.in_channels


def _identity_kernel(channels: int, like: Tensor) -> Tensor:
    """The kernel `(I, I, 1 ...)` that every channel passes as it is."""
    return torch.eye(channels).to(like).reshape(channels, channels, *(1,) * (like.dim() - 2))


def _kernel_through(kernel_IMK: Tensor, parts: list[nn.Module], weights: list[Tensor]) -> Tensor:
    """The kernel from the same inputs to the outputs of the last of `parts`.

    No two factors have a kernel along the same axis, so their kernels multiply entry by entry, one of them of size 1.
    """
    remaining = iter(weights)
    for part in parts:
        if isinstance(part, Reorder):
            kernel_IMK = part(kernel_IMK)
            continue
        groups = getattr(part, "groups", 1)
        kernel_IGMK, weight_GOMK = kernel_IMK.unflatten(1, (groups, -1)), next(remaining).unflatten(0, (groups, -1))
        if isinstance(part, TRANSPOSED):
            weight_GOMK = weight_GOMK.transpose(1, 2)
        if weight_GOMK.shape[1] == weight_GOMK.shape[2] == 1:  # depthwise
            kernel_IMK = (kernel_IGMK * weight_GOMK[:, 0]).flatten(1, 2)
        else:
            kernel_IMK = torch.einsum("igm...,gom...->igo...", kernel_IGMK, weight_GOMK).flatten(1, 2)
    return kernel_IMK


def _blocks(kernel_IOK: Tensor, groups: int) -> Tensor:
    """Those of a group's inputs and its own outputs, `(G, O, D)`."""
    entries_IOK = kernel_IOK.reshape(*kernel_IOK.shape[:2], -1)  # one entry for linear layers
    kernel_GIGOK = entries_IOK.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    return kernel_GIGOK.diagonal(dim1=0, dim2=2).permute(3, 1, 0, 2).flatten(2)


def error(target_GOD: Tensor, what_GOD: Tensor, second_GDD: Tensor | HeldRows) -> float:
    """tr((W - What) M (W - What)^T), over all groups."""
    off_GOD = target_GOD - what_GOD
    return float((times(off_GOD, second_GDD) * off_GOD).sum())


def alternating(
    parts: list[nn.Module],
    weights: list[Tensor],
    target_GOD: Tensor,
    second_GDD: Tensor | HeldRows,
    sweeps: int = 30,
    tolerance: float = 5e-4,
    steps: int = 40,
) -> list[Tensor]:
    r"""Weights of the factors of a chain that bring its dense weight closer to the target in the metric of the moments.

    .. math:: \min_{w_1 \dots w_n} tr((W - \hat W) M (W - \hat W)^T), \qquad \hat W = \hat W(w_1, \dots, w_n)

    What is linear in each factor, so one factor with the others fixed is a linear least-squares problem. It is solved
    by conjugate gradients on its normal equations from the weights at hand, hence no step makes the error larger; for
    factors that join all channels, `inverse_near` solves or preconditions these. After a sweep the weights are
    extrapolated along their last change; where that made the error rise the sweep is undone, so the error never rises
    above that of the start.

    Args:
        parts: the modules of the chain, for their settings.
        weights: to start from, one for every factor, in float64.
        target_GOD: W.
        second_GDD: M, or the rows that it is of.
        sweeps: through all factors, at most.
        tolerance: two sweeps in a row that lower the error by less than this share of it are the last; a step of
            conjugate gradients, by less than a twenty-fifth of that.
        steps: of conjugate gradients for one factor, at most.

    Returns:
        One weight for every factor, in order.

    Source: the extrapolation follows Ang and Gillis 2019, as that of `cp_als`.

    Measured on four layers of ResNet-20 at a half and a quarter of their weights, against sweeps without extrapolation
    and in the same time: errors of CP are 6 to 21 % lower, of the tensor train, Tucker-2 and spatial SVD up to 4 %. The
    preconditioner makes fits of 128 channels 2.4 (CP) to 5 times (spatial SVD) faster, and errors 1 to 27 % lower.
    A tolerance of 2e-4 takes 1.2 times the sweeps for errors of spatial SVD that are 0.1 % lower in the mean, 1.4 % at
    most; above 5e-4 a plateau after the first sweeps may be the end.
    There is no second start: from the factors of the weight whitened by its input channels, at twice the time, 7 of 36
    fits end more than 0.5 % lower (at most 7 %), and 11 more than 0.5 % higher (CP by up to 130 %).
    """
    G, best = len(target_GOD), list(weights)
    # Below that an error is rounding of the moments, and sweeps after it would only follow the rounding.
    exact = EXACT * error(target_GOD, torch.zeros_like(target_GOD), second_GDD)
    chain = _Chain(parts, G, second_GDD, steps, tolerance / 25)
    least, guess, share, ceiling, quiet = math.inf, best, 0.5, 1.0, 0
    for sweep in range(sweeps):
        swept, off_GOD = list(guess), target_GOD - dense_GOD(parts, guess, G)
        slope_GOD = times(off_GOD, second_GDD)
        now = float((slope_GOD * off_GOD).sum())
        least = least if sweep else now
        for turn in range(len(swept)):
            swept[turn], slope_GOD, now = chain.improved(swept, turn, slope_GOD, now)
        if now > least:  # the step was too long: back, and a shorter one next time
            guess, ceiling, share = best, share, share / 1.5
            continue
        quiet = quiet + 1 if least - now <= tolerance * least else 0
        change = [new - old for new, old in zip(swept, best, strict=True)]
        best, least = swept, now
        if quiet == 2 or now <= exact:
            break
        # A start is too far from the first sweep to go on in that direction.
        guess = [one + share * step for one, step in zip(best, change, strict=True)] if sweep else best
        ceiling = min(1.0, 1.01 * ceiling)
        share = min(1.05 * share, ceiling)
    return best


class _Chain:
    """The factors of a chain, of which one after the other is made the best for the others as they are.

    Args:
        parts, groups, second_GDD: of the chain, and of its inputs.
        steps: of conjugate gradients for one factor, at most.
        tolerance: no step is made that would take less than this share off the error.
    """

    def __init__(
        self, parts: list[nn.Module], groups: int, second_GDD: Tensor | HeldRows, steps: int, tolerance: float
    ) -> None:
        self.parts, self.groups, self.second = parts, groups, second_GDD
        self.steps, self.tolerance = steps, tolerance
        self.places = [place for place, part in enumerate(parts) if not isinstance(part, Reorder)]
        self._first_sees: Tensor | None = None  # Cholesky of the moments of the first factor's inputs, always the same

    def improved(
        self, weights: list[Tensor], turn: int, slope_GOD: Tensor, left: float
    ) -> tuple[Tensor, Tensor, float]:
        """A weight of factor `turn` that is best for the others as they are.

        Args:
            weights: of all factors.
            turn: which factor.
            slope_GOD: (W - What) M with these weights.
            left: the error with these weights.

        Returns:
            The weight, and slope and error with it; of the last factor the slope is left as it was.
        """
        place = self.places[turn]
        before, after, behind = self.parts[:place], self.parts[place:], weights[turn + 1 :]
        identity = _identity_kernel(_channels_into(self.parts), weights[0])
        kernel_IMK = _kernel_through(identity, before, weights[:turn])

        def dense(weight: Tensor) -> Tensor:
            return _blocks(_kernel_through(kernel_IMK, after, [weight, *behind]), self.groups)

        # The dense weight is linear in this factor, so autograd's gradient is the adjoint map, whatever layers the
        # chain has: nothing has to be derived by hand for groups and reorderings.
        with torch.enable_grad():
            start = weights[turn].clone().requires_grad_()
            what_GOD = dense(start)

        def adjoint(slope_GOD: Tensor) -> Tensor:
            return torch.autograd.grad(what_GOD, start, slope_GOD, retain_graph=True)[0]

        nearly_solve, solves = self._solver(kernel_IMK, weights, turn)
        with torch.no_grad():
            r = adjoint(slope_GOD)
            v, p = torch.zeros_like(r), nearly_solve(r)
            squared = (r * p).sum()
            if solves:
                slope_GOD = slope_GOD - times(dense(p), self.second) if behind else slope_GOD
                return start.detach() + p, slope_GOD, left - float(squared)
            for _ in range(self.steps):
                along_GOD = times(dense(p), self.second)
                Hp = adjoint(along_GOD)
                curvature = (p * Hp).sum()
                if not curvature > 0:  # the factor's inputs are never seen in this direction: there is nothing to gain
                    break
                alpha = squared / curvature
                v, r = v + alpha * p, r - alpha * Hp
                slope_GOD = slope_GOD - alpha * along_GOD if behind else slope_GOD
                gain = float(alpha * squared)
                left -= gain
                z = nearly_solve(r)
                squared, previous = (r * z).sum(), squared
                # The next step is about as long as this one.
                if min(gain, float(alpha * squared)) <= self.tolerance * left:
                    break
                p = z + squared / previous * p
            return start.detach() + v, slope_GOD, left

    def _solver(self, kernel_IMK: Tensor, weights: list[Tensor], turn: int) -> tuple[Solve, bool]:
        """What nearly solves the normal equations of a factor, and whether it does solve them."""
        after, weight = self.parts[self.places[turn] :], weights[turn]
        if not (self.groups == getattr(after[0], "groups", 1) == 1) or isinstance(after[0], TRANSPOSED):
            return (lambda r: r), False
        B_oOK = _kernel_through(_identity_kernel(len(weight), weight), after[1:], weights[turn + 1 :])
        sees = None if turn else self._first_sees
        if sees is None:
            sees = cholesky_of_seen(kernel_IMK, weight, B_oOK, self.second)
        if turn == 0:
            self._first_sees = sees
        return inverse_near(sees, B_oOK), B_oOK.shape[2:].numel() == 1
