"""The relaxed multiple-choice knapsack: mixtures of options, and budgets at a price.

Legend: O options of a layer, L layers, B budgets, S partial choices; c_OB costs, C_B limits, lambda_B the price of a
unit of each budget, E(x) the lowest relaxed loss of the layers to come if they cost at most x.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRECISION = 1e-12  # of bounds, relative to what they are sums of


@dataclass(frozen=True)
class LayerOptions:
    """Options of one layer by rising cost."""

    places: np.ndarray  # in the input, (O,)
    costs: np.ndarray  # (O, B)
    losses: np.ndarray  # (O,)

    @classmethod
    def of(cls, c_OB: np.ndarray, loss_O: np.ndarray) -> "LayerOptions":
        """All that no other one of the same or a lower cost beats."""
        return cls(np.arange(len(loss_O)), c_OB, loss_O).at(find_undominated(c_OB, loss_O))

    def at(self, kept: np.ndarray) -> "LayerOptions":
        """Some of the options."""
        return LayerOptions(self.places[kept], self.costs[kept], self.losses[kept])

    def under(self, budgets: np.ndarray) -> "LayerOptions":
        """The options where only some budgets count."""
        less = LayerOptions(self.places, self.costs[:, budgets], self.losses)
        return less.at(find_undominated(less.costs, less.losses))

    def step(self, C_B: np.ndarray) -> float:
        """What the next option costs more, as a share of the limits."""
        steps_B = [np.median(np.diff(np.unique(c_O))) if np.ptp(c_O) else 0.0 for c_O in self.costs.T]
        return float(np.sum(steps_B / np.maximum(C_B, 1)))

    def priced(self, lambda_B: np.ndarray) -> np.ndarray:
        """Loss plus price, `(O,)`; `(O, G)` for prices `(B, G)`."""
        price = self.costs @ lambda_B
        return price + (self.losses if price.ndim == 1 else self.losses[:, None])

    def lacks(self, lambda_B: np.ndarray) -> np.ndarray:
        """How much more that is than that of the best option, `(O,)`."""
        priced_O = self.priced(lambda_B)
        return priced_O - priced_O.min()

    def __len__(self) -> int:
        return len(self.losses)


def find_undominated(c_SB: np.ndarray, loss_S: np.ndarray) -> np.ndarray:
    """Places, by rising cost, of what nothing else beats in cost and in loss; of equals the first.

    With several budgets only what costs the same is compared.
    """
    order = np.lexsort((loss_S, *c_SB.T[::-1]))
    c_SB, loss_S = c_SB[order], loss_S[order]
    several = c_SB.shape[1] > 1
    # One budget: sorted by cost, what does not lower the loss is beaten. Several: no order sorts them all, and to
    # compare all pairs would take the square of the time.
    kept_S = (c_SB[1:] != c_SB[:-1]).any(1) if several else loss_S[1:] < np.minimum.accumulate(loss_S)[:-1]
    return order[np.append(True, kept_S)[: len(order)]]


def find_prices(layers: Sequence[LayerOptions], C_B: np.ndarray) -> np.ndarray | None:
    """lambda_B of the relaxed problem; None where even that has no solution.

    Bounds hold at any prices that are not negative; these make them the highest.
    """
    # One budget: the relaxed problem goes down the edges of the hulls, steepest first, until the budget is spent; the
    # price is the slope of the edge on which that happens.
    if len(C_B) == 1:
        x_N, y_N = _relax_from_each(layers, 0, np.zeros(1))[0]
        if x_N[0] > C_B[0]:
            return None
        after = int(np.searchsorted(x_N, C_B[0], side="right"))
        return np.zeros(1) if after == len(x_N) else -np.diff(y_N)[[after - 1]] / np.diff(x_N)[after - 1]
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    c_NB, loss_N = (np.concatenate(of_all) for of_all in zip(*((l.costs, l.losses) for l in layers), strict=True))
    layer_N = np.repeat(np.arange(len(layers)), [len(layer) for layer in layers])
    one_each = csr_array((np.ones(len(loss_N)), (layer_N, np.arange(len(loss_N)))))
    # In units near 1, as the tolerances of the linear programme are absolute.
    unit_B, unit = np.maximum(C_B, 1), max(float(loss_N.max()), 1.0)
    relaxed = linprog(loss_N / unit, (c_NB / unit_B).T, C_B / unit_B, one_each, np.ones(len(layers)))
    if relaxed.status == 2:
        return None
    lambda_B = np.maximum(-relaxed.ineqlin.marginals, 0.0) if relaxed.status == 0 else np.zeros(len(C_B))
    # A price that is only rounding would make its budget count as one that binds.
    return np.where(lambda_B > 1e-9 * lambda_B.max(), lambda_B, 0.0) * unit / unit_B


def rounding_error(layers: Sequence[LayerOptions], C_B: np.ndarray, lambda_B: np.ndarray) -> float:
    """How far a bound may be off, as a sum of floating-point numbers."""
    return PRECISION * float(sum(layer.priced(lambda_B).max() for layer in layers) + lambda_B @ np.abs(C_B))


class Completion:
    r"""Bounds from below on the loss of whole choices that begin as given.

    .. math:: \text{loss} + \sum_{j \ne b} \lambda_j (c_j - C_j) + E_b(C_b - c_b), \qquad b = 1 \dots B

    E_b relaxes the layers to come to the lower convex hulls of their options, with all budgets but b at their price.
    """

    def __init__(self, layers: Sequence[LayerOptions], lambda_B: np.ndarray, C_B: np.ndarray) -> None:
        self.C_B = C_B
        self._others = [np.where(np.arange(len(C_B)) == b, 0.0, lambda_B) for b in range(len(C_B))]
        self._E = [_relax_from_each(layers, b, others_B) for b, others_B in enumerate(self._others)]

    def bound(self, stage: int, c_SB: np.ndarray, loss_S: np.ndarray) -> np.ndarray:
        """The highest of the bounds, `(S,)`, for choices of the first `stage` layers; inf where nothing fits."""
        # Every b gives a bound; which is the highest differs from one partial choice to the next.
        left_SB = self.C_B - c_SB
        bound_S = np.full(len(loss_S), -np.inf)
        for b, (others_B, E) in enumerate(zip(self._others, self._E, strict=True)):
            E_S = np.interp(left_SB[:, b], *E[stage], left=np.inf)
            bound_S = np.maximum(bound_S, loss_S - left_SB @ others_B + E_S)
        return bound_S


def _relax_from_each(
    layers: Sequence[LayerOptions], b: int, others_B: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Corners (x, y) of E_b for the layers from each one on, and for none."""
    hulls = [_lower_hull(layer.costs[:, b].astype(np.float64), layer.priced(others_B)) for layer in layers]
    first_L2 = np.array([[x_N[0], y_N[0]] for x_N, y_N in hulls])
    layer_N = np.repeat(np.arange(len(hulls)), [len(x_N) - 1 for x_N, _ in hulls])
    edge_N2 = np.concatenate([np.diff(hull, axis=1).T for hull in hulls])
    # The relaxed loss of several layers is the sum of their hulls: all edges, joined by rising slope. Sorted once, they
    # serve every stage, each without the edges of the layers before it.
    steepest = np.argsort(edge_N2[:, 1] / edge_N2[:, 0], kind="stable")
    layer_N, edge_N2 = layer_N[steepest], edge_N2[steepest]
    corners = []
    for stage in range(len(layers) + 1):
        edges_N2 = np.concatenate([first_L2[stage:].sum(0)[None], edge_N2[layer_N >= stage]])
        corners.append(tuple(np.cumsum(edges_N2, axis=0).T))
    return corners


def _lower_hull(x_O: np.ndarray, y_O: np.ndarray) -> np.ndarray:
    """Corners (x, y) of the falling part of the lower convex hull, `(2, N)`."""
    order = np.lexsort((y_O, x_O))
    x_O, y_O = x_O[order], y_O[order]
    falling = np.append(True, y_O[1:] < np.minimum.accumulate(y_O)[:-1])
    xs, ys = [], []
    for x, y in zip(x_O[falling].tolist(), y_O[falling].tolist(), strict=True):
        # A corner above the line from the one before it to the new one is not on the hull.
        while len(xs) > 1 and (ys[-1] - ys[-2]) * (x - xs[-1]) >= (y - ys[-1]) * (xs[-1] - xs[-2]):
            xs.pop()
            ys.pop()
        xs.append(x)
        ys.append(y)
    return np.array([xs, ys])
