"""The penalties of a training with their weights, and the projection that goes with them."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowrank_exp.checks import positive
from lowrank_exp.regularizers.nuclear_norm import TRPProjection
from lowrank_exp.regularizers.penalty import Penalty


class Weighted(NamedTuple):
    """A penalty, its weight in the loss, and the factor on that weight as a function of progress (None: 1)."""

    penalty: Penalty
    weight: float
    schedule: Callable[[float], float] | None = None


class Regularizer:
    r"""The weighted penalties of a training, by name.

    .. math:: L = L_\text{task} + \sum_i \lambda_i f_i(p) L_i

    with the weights lambda, the schedules f and progress p = step / total steps. A step of the training is

        regularizer.project_(network, step)
        loss.backward()
        regularizer.apply_(network, step, total_steps)
        optimizer.step()

    Nothing is kept between steps. Weights are exact factors on gradients; values are logged without them.

    Args:
        terms: names to `Weighted`; none: no penalty.
        projection: what is done to the weights before a forward pass; None: nothing.

    Raises:
        ValueError: a term that is not a `Weighted` (or tuple of such), a weight that is negative or not finite, a
            schedule that is not a function.

    >>> from lowrank_exp.regularizers import L1, ramp
    >>> Regularizer({"l1": Weighted(L1(), 0.3, ramp)}).weights(0.05)
    {'l1': 0.15}
    """

    def __init__(self, terms: Mapping[str, Weighted], projection: TRPProjection | None = None) -> None:
        self.terms = {name: _check_term(name, term) for name, term in terms.items()}
        if projection is not None and not isinstance(projection, TRPProjection):
            raise ValueError(f"projection is {projection!r}; allowed is a TRPProjection, or null for none")
        self.projection = projection

    def weights(self, progress: float) -> dict[str, float]:
        """The weight of every term at `progress` in [0, 1).

        Raises:
            ValueError: a schedule gives something negative or not finite.
        """
        return {name: _weight(name, term, progress) for name, term in self.terms.items()}

    def check(self, network: nn.Module) -> None:
        """Nothing, if every term finds its layers in `network`, which may lie on the meta device.

        Raises:
            ValueError: a term has no layer to act on, or names one that does not exist.
        """
        with torch.no_grad():
            for name, term in self.terms.items():
                try:
                    term.penalty.value(network)
                except ValueError as error:
                    raise ValueError(f"regularizer: {name}: {error}") from error

    def project_(self, network: nn.Module, step: int) -> Tensor | None:
        """Project the weights in place, before the forward pass of `step`; the mean kept rank, or None if not now."""
        return None if self.projection is None else self.projection.apply_(network, step)

    def apply_(self, network: nn.Module, step: int, total_steps: int) -> dict[str, Tensor]:
        """Add the weighted gradients to `.grad`, after the backward pass of `step`; see `Penalty.apply_`.

        Args:
            network: its layers are edited in `.grad` only.
            step: of the training, from 0.
            total_steps: of the training.

        Returns:
            The unweighted value of every penalty that acted at this step, by name, detached, on the device.
        """
        return dict(self.applied_(network, step, total_steps))

    def applied_(self, network: nn.Module, step: int, total_steps: int) -> Iterator[tuple[str, Tensor]]:
        """As `apply_`, a term at a time: the name and value of each that acted, once its gradient has been added."""
        weights = self.weights(step / total_steps)
        for name, term in self.terms.items():
            value = term.penalty.apply_(network, weights[name], step)
            if value is not None:
                yield name, value

    def value(self, network: nn.Module, progress: float) -> Tensor:
        """What is added to the loss at `progress`, a differentiable scalar; needs a term."""
        weights = self.weights(progress)
        return torch.stack([weights[name] * term.penalty.value(network) for name, term in self.terms.items()]).sum()


def _weight(name: str, term: Weighted, progress: float) -> float:
    factor = 1.0 if term.schedule is None else float(term.schedule(progress))
    if not (math.isfinite(factor) and factor >= 0):
        raise ValueError(f"{name}: the schedule gives {factor} at progress {progress}; allowed are 0 and above")
    return term.weight * factor


def _check_term(name: str, term: Weighted) -> Weighted:
    try:
        term = Weighted(*term)
    except TypeError:
        raise ValueError(f"{name} is {term!r}; allowed is Weighted(penalty, weight, schedule)") from None
    if not isinstance(term.penalty, Penalty):
        raise ValueError(f"{name}: penalty is {term.penalty!r}; allowed is a penalty, such as Hoyer()")
    wrong = f"{name}: weight is {term.weight!r}; allowed is a finite number, 0 or more"
    positive("weight", term.weight, wrong, zero=True)
    if term.schedule is not None and not callable(term.schedule):
        raise ValueError(f"{name}: schedule is {term.schedule!r}; allowed is a function of progress, such as ramp")
    return term
