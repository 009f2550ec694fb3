"""The multiple-choice knapsack: one option of every layer, the highest sum of values whose costs keep within limits.

Legend: L layers, O options of a layer, B budgets, S options of all layers. An option has costs c_OB and a loss: what
its value lacks of its layer's highest.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowrank_exp.rank.knapsack.bounded_search import search
from lowrank_exp.rank.knapsack.relaxation import LayerOptions


@dataclass(frozen=True)
class Solution:
    """The chosen option of every layer, the sum of their values, and what no choice exceeds; exact if it is proved."""

    options: tuple[int, ...]
    value: float
    bound: float
    exact: bool


def solve(
    costs: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    limits: Sequence[int],
    *,
    limit_seconds: float = 5.0,
) -> Solution | None:
    r"""Choose one option of every layer.

    .. math:: \max_o \sum_l v_{l, o_l} \quad \text{such that} \quad \sum_l c_{l, o_l, b} \le C_b
        \; \text{for all budgets} \; b

    Layers are joined one by one to partial choices. Of those that cost the same the best remains, if its relaxed
    completion reaches the best choice known; the relaxation takes the lower convex hulls of the options in one budget,
    and Lagrange multipliers for the others. Searches that keep few partial choices come first, and one that drops none
    proves its result. Where hulls are far below the options (dense is much better than ranks) the problem is divided.

    Args:
        costs: integers `(O, B)` of every layer.
        values: `(O,)` of every layer, finite or -inf: chosen only where nothing else fits, and then as seldom as
            possible. They are rounded to multiples of about 1e-16 of all layers' range together, so that sums do not
            depend on the order of layers.
        limits: an integer for every budget.
        limit_seconds: the search ends after that, once a choice is known.

    Returns:
        None where nothing fits. Of equally good options the cheaper is preferred.

    Raises:
        ValueError: shapes do not agree, there is no limit, costs are not integers, or values are NaN or +inf.

    >>> solve([[[1], [3]], [[2], [3]]], [[0.0, 5.0], [0.0, 4.0]], [5])
    Solution(options=(1, 0), value=5.0, bound=5.0, exact=True)
    """
    if not len(costs) or len(costs) != len(values):
        raise ValueError(f"costs and values are needed for the same layers, got {len(costs)} and {len(values)}")
    limit_B = _as_integers(limits, "limits", 1)
    if not len(limit_B):
        raise ValueError("a limit is needed for at least one budget, got none")
    costs_L = [_as_integers(of_layer, "costs", 2) for of_layer in costs]
    values_L = [np.asarray(of_layer, dtype=np.float64) for of_layer in values]
    for costs_OB, values_O in zip(costs_L, values_L, strict=True):
        if not len(values_O) or costs_OB.shape != (*values_O.shape, len(limit_B)):
            raise ValueError(f"costs {costs_OB.shape} do not go with values {values_O.shape}, limits {limit_B.shape}")
        if np.isnan(values_O).any() or (values_O == np.inf).any():
            raise ValueError(f"values must be finite or -inf, got {values_O}")

    if (sum(costs_OB.min(axis=0) for costs_OB in costs_L) > limit_B).any():
        return None  # the cheapest options exceed a limit, whatever else is chosen
    losses = _ExactLosses.of(values_L)
    kept, limit_B = _tighten(costs_L, limit_B)
    layers = [LayerOptions.of(c_OB[:, kept], loss_O) for c_OB, loss_O in zip(costs_L, losses.integers, strict=True)]
    # By the size of their steps, so that the order in which layers come decides nothing; any other takes about as long.
    order = sorted(range(len(layers)), key=lambda l: layers[l].step(limit_B), reverse=True)
    rows, loss, bound = search([layers[l] for l in order], limit_B, time.monotonic() + limit_seconds)
    if rows is None:
        return None
    options = dict(zip(order, rows, strict=True))
    value = math.fsum(values_O[options[l]] for l, values_O in enumerate(values_L))
    exact = bool(bound >= loss)
    chosen = tuple(options[l] for l in range(len(layers)))
    return Solution(chosen, value, value if exact else losses.value(bound), exact)


def _as_integers(numbers: Sequence, what: str, dimensions: int) -> np.ndarray:
    array = np.asarray(numbers)
    if array.ndim != dimensions or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{what} must be integers in {dimensions} dimension(s), got {array.dtype} {array.shape}")
    return array.astype(np.int64)


@dataclass(frozen=True)
class _ExactLosses:
    """What each option's value lacks of its layer's highest, as integers in units of 2^-exponent: exact to sum.

    -inf counts as one finite value, the same for all layers, so low that no others make up for it.
    """

    integers: list[np.ndarray]
    highest: float
    forbidden: int
    exponent: int

    @classmethod
    def of(cls, values: Sequence[np.ndarray]) -> "_ExactLosses":
        finite = [v[np.isfinite(v)] if np.isfinite(v).any() else np.zeros(1) for v in values]
        highest = [float(v.max()) for v in finite]
        lowest = min(highest)
        spread = math.fsum(high - min(float(v.min()), lowest) for high, v in zip(highest, finite, strict=True))
        forbidden = 1.5 * spread or 1.0  # more than all other layers together can make up for
        any_forbidden = any(np.isinf(v).any() for v in values)
        # The highest at which the sum of any choice stays within int64.
        exponent = 61 - math.frexp(len(values) * (forbidden + spread) if any_forbidden else forbidden)[1]
        integers = [
            np.rint(np.ldexp(high - np.where(np.isinf(v), lowest - forbidden, v), exponent)).astype(np.int64)
            for high, v in zip(highest, values, strict=True)
        ]
        return cls(integers, math.fsum(highest), math.floor(math.ldexp(forbidden, exponent)), exponent)

    def value(self, loss: float) -> float:
        """The sum of values that lacks `loss` of the highest."""
        return -math.inf if loss >= self.forbidden else self.highest - math.ldexp(max(loss, 0.0), -self.exponent)


def _tighten(costs: Sequence[np.ndarray], limit_B: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The budgets that no other one of proportional costs implies, and their limits rounded down to sums of costs."""
    # Weights and bytes of one type are proportional: the tighter of both bounds is enough, and one budget is solved far
    # faster than two. Between two sums of costs a limit is as good as the lower one.
    more_SB = np.concatenate([c_OB - c_OB.min(0) for c_OB in costs])
    least_B = sum(c_OB.min(0) for c_OB in costs)
    unit_B = np.maximum(np.gcd.reduce(more_SB, axis=0), 1)
    steps_B = (limit_B - least_B) // unit_B
    tightest: dict[bytes, int] = {}
    for b, proportional in enumerate((more_SB // unit_B).T):
        same = tightest.setdefault(proportional.tobytes(), b)
        if steps_B[b] < steps_B[same]:
            tightest[proportional.tobytes()] = b
    kept = list(tightest.values())
    return kept, (least_B + steps_B * unit_B)[kept]
