"""Search for one option of every layer with the lowest sum of losses within limits, and a proof that it is.

Legend: O options of a layer, B budgets, S partial choices (of the first layers); c_OB costs, lambda_B the price of each
budget in the relaxed problem, E(x) the lowest relaxed loss of the layers to come if they cost at most x.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTHS = (64, 2**10, 2**14, 2**18, 2**20)  # partial choices kept in one pass after the other
NEAR = 8  # options of a layer in the first pass
ROWS = 2**20  # joined at a time
PRECISION = 1e-12  # of floating-point bounds, relative to all that they are sums of


@dataclass(frozen=True)
class LayerOptions:
    """Options of one layer by rising cost: their places in the input, costs `(O, B)` and losses `(O,)`."""

    places: np.ndarray
    c_OB: np.ndarray
    loss_O: np.ndarray

    @classmethod
    def of(cls, c_OB: np.ndarray, loss_O: np.ndarray) -> "LayerOptions":
        """All that no other one beats in every cost and in loss."""
        return cls(np.arange(len(loss_O)), c_OB, loss_O).at(undominated(c_OB, loss_O))

    def at(self, kept: np.ndarray) -> "LayerOptions":
        return LayerOptions(self.places[kept], self.c_OB[kept], self.loss_O[kept])

    def step(self, limit_B: np.ndarray) -> float:
        """What the next option costs more, as a share of the limits."""
        steps_B = [np.median(np.diff(np.unique(c_O))) if np.ptp(c_O) else 0.0 for c_O in self.c_OB.T]
        return float(np.sum(steps_B / np.maximum(limit_B, 1)))

    def priced(self, lambda_B: np.ndarray) -> np.ndarray:
        """Loss plus price, `(O,)`."""
        return self.loss_O + self.c_OB @ lambda_B

    def __len__(self) -> int:
        return len(self.loss_O)


def search(
    layers: Sequence[LayerOptions], limit_B: np.ndarray, until: float
) -> tuple[list[int], int, float] | None:
    """Places of the best choice found, its loss, and a loss below which there is none; None if nothing fits.

    The two losses are equal where the choice is proved to be the best. No pass begins or goes on after `until` (of
    `time.monotonic`) once a choice is known.
    """
    lambda_B = _prices(layers, limit_B)
    if lambda_B is None:
        return None
    size = float(sum(np.abs(layer.priced(lambda_B)).max() for layer in layers) + lambda_B @ limit_B)
    slack = PRECISION * size
    relaxed = sum(layer.priced(lambda_B).min() for layer in layers) - lambda_B @ limit_B
    best, loss, bound = None, math.inf, relaxed - slack
    for width in WIDTHS:
        lacks = [layer.priced(lambda_B) - layer.priced(lambda_B).min() for layer in layers]
        within = [np.flatnonzero(relaxed + lack_O <= loss + slack) for lack_O in lacks]
        layers = [layer.at(kept) for layer, kept in zip(layers, within, strict=True)]
        tried = layers if width > WIDTHS[0] else [_nearest(layer, lambda_B, limit_B) for layer in layers]
        found = _joined(tried, lambda_B, limit_B, width, loss + slack, slack, until if best else math.inf)
        if found is None:
            break
        choice, reached, dropped = found
        if choice is not None and reached <= loss:
            best, loss = choice, reached
        if sum(map(len, tried)) == sum(map(len, layers)):
            bound = max(bound, dropped)
        if bound + 2 * slack >= loss:
            bound = loss
        if bound >= loss: 
            break
    return None if best is None else (best, loss, min(loss, bound))


def _joined(
    layers: Sequence[LayerOptions],
    lambda_B: np.ndarray,
    limit_B: np.ndarray,
    width: int,
    reach: float,
    slack: float,
    until: float,
) -> tuple[list[int] | None, float, float] | None:
    """One pass: the best choice and its loss, and the lowest bound of what was dropped; None where time ran out.

    Partial choices whose bound exceeds `reach` are forgotten, those beyond `width` dropped.
    """
    to_come = _Completion(layers, lambda_B, limit_B)
    c_SB, loss_S = np.zeros((1, len(limit_B)), np.int64), np.zeros(1, np.int64)
    dropped, trail = math.inf, []
    for stage, layer in enumerate(layers):
        parts = []
        rows = max(1, ROWS // len(layer))
        for start in range(0, len(loss_S), rows):
            if time.monotonic() > until:
                return None
            block = slice(start, start + rows)
            c_NB = (c_SB[block, None] + layer.c_OB).reshape(-1, len(limit_B))
            loss_N = (loss_S[block, None] + layer.loss_O).ravel()
            bound_N = to_come.bound(stage + 1, c_NB, loss_N)
            kept = np.flatnonzero((bound_N <= reach) & np.isfinite(bound_N))
            parts.append((c_NB[kept], loss_N[kept], bound_N[kept], kept + start * len(layer)))
        c_SB, loss_S, bound_S, origin_S = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept = undominated(c_SB, loss_S)
        if len(kept) > width:
            cut = float(np.partition(bound_S[kept], width)[width])
            kept, dropped = _thinned(kept, bound_S[kept], cut, slack, width), min(dropped, cut - slack)
        c_SB, loss_S = c_SB[kept], loss_S[kept]
        trail.append(np.divmod(origin_S[kept], len(layer)))
    if not len(loss_S):
        return None, math.inf, dropped
    state = int(np.lexsort((*c_SB.T[::-1], loss_S))[0])
    loss, choice = int(loss_S[state]), []
    for layer, (parent_S, option_S) in zip(reversed(layers), reversed(trail), strict=True):
        choice.append(int(layer.places[option_S[state]]))
        state = parent_S[state]
    return choice[::-1], loss, dropped


def _thinned(kept: np.ndarray, bound_S: np.ndarray, cut: float, slack: float, width: int) -> np.ndarray:
    """As many as `width` of the partial choices with the lowest bounds; of equal ones some of every cost."""
    better, tied = np.flatnonzero(bound_S < cut - slack), np.flatnonzero(abs(bound_S - cut) <= slack)
    spread = np.linspace(0, len(tied) - 1, width - len(better)).round().astype(np.int64)
    return kept[np.sort(np.append(better, tied[spread]))]


class _Completion:
    r"""Bounds on the loss of whole choices.

    .. math:: \text{loss} + \sum_{j \ne b} \lambda_j (c_j - C_j) + E_b(C_b - c_b), \qquad b = 1 \dots B

    E_b relaxes the layers to come to the lower convex hulls of their options, with all budgets but b at their price.
    """

    def __init__(self, layers: Sequence[LayerOptions], lambda_B: np.ndarray, limit_B: np.ndarray) -> None:
        self.lambda_B, self.limit_B = lambda_B, limit_B
        self._hulls = [_hulls(layers, b, lambda_B) for b in range(len(limit_B))]

    def bound(self, stage: int, c_SB: np.ndarray, loss_S: np.ndarray) -> np.ndarray:
        """The highest of the bounds, `(S,)`, for choices of the first `stage` layers; inf where nothing fits."""
        left_SB = self.limit_B - c_SB
        bound_S = np.full(len(loss_S), -np.inf)
        for b, hulls in enumerate(self._hulls):
            others_B = np.where(np.arange(len(self.limit_B)) == b, 0.0, self.lambda_B)
            E_S = np.interp(left_SB[:, b], *hulls[stage], left=np.inf)
            bound_S = np.maximum(bound_S, loss_S - left_SB @ others_B + E_S)
        return bound_S


def _hulls(layers: Sequence[LayerOptions], b: int, lambda_B: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Corners of E_b for the layers from each one on, and for none."""
    others_B = np.where(np.arange(len(lambda_B)) == b, 0.0, lambda_B)
    corners = [_hull(layer.c_OB[:, b].astype(np.float64), layer.priced(others_B)) for layer in layers]
    start_L2 = np.array([[x[0], y[0]] for x, y in corners])
    layer_N = np.concatenate([np.full(len(x) - 1, l) for l, (x, _) in enumerate(corners)])
    step_N2 = np.concatenate([np.stack([np.diff(x), np.diff(y)], axis=1) for x, y in corners])
    order = np.argsort(step_N2[:, 1] / step_N2[:, 0], kind="stable")
    layer_N, step_N2 = layer_N[order], step_N2[order]
    hulls = []
    for stage in range(len(layers) + 1):
        x_N, y_N = np.cumsum(np.concatenate([start_L2[stage:].sum(0)[None], step_N2[layer_N >= stage]]), axis=0).T
        hulls.append((x_N, y_N))
    return hulls


def _hull(x_O: np.ndarray, y_O: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The falling part of the lower convex hull."""
    order = np.lexsort((y_O, x_O))
    x_O, y_O = x_O[order], y_O[order]
    falling = np.append(True, y_O[1:] < np.minimum.accumulate(y_O)[:-1])
    xs, ys = [], []
    for x, y in zip(x_O[falling].tolist(), y_O[falling].tolist(), strict=True):
        while len(xs) > 1 and (ys[-1] - ys[-2]) * (x - xs[-1]) >= (y - ys[-1]) * (xs[-1] - xs[-2]):
            xs.pop(), ys.pop()
        xs.append(x)
        ys.append(y)
    return np.array(xs), np.array(ys)


def _prices(layers: Sequence[LayerOptions], limit_B: np.ndarray) -> np.ndarray | None:
    """lambda_B of the relaxed problem; None where even that has no solution."""
    if len(limit_B) == 1:
        x_N, y_N = _hulls(layers, 0, np.zeros(1))[0]
        if x_N[0] > limit_B[0]:
            return None
        next_N = int(np.searchsorted(x_N, limit_B[0], side="right"))
        if next_N == len(x_N):
            return np.zeros(1)
        return np.array([(y_N[next_N - 1] - y_N[next_N]) / (x_N[next_N] - x_N[next_N - 1])])
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    c_NB, loss_N = (np.concatenate(column) for column in zip(*((l.c_OB, l.loss_O) for l in layers), strict=True))
    layer_N = np.repeat(np.arange(len(layers)), list(map(len, layers)))
    one_each = csr_array((np.ones(len(loss_N)), (layer_N, np.arange(len(loss_N)))))
    unit_B, unit = np.maximum(limit_B, 1), max(float(loss_N.max()), 1.0)
    relaxed = linprog(
        loss_N / unit, (c_NB / unit_B).T, limit_B / unit_B, one_each, np.ones(len(layers)), method="highs"
    )
    return None if relaxed.status == 2 else np.maximum(-relaxed.ineqlin.marginals * unit / unit_B, 0.0)


def _nearest(layer: LayerOptions, lambda_B: np.ndarray, limit_B: np.ndarray) -> LayerOptions:
    """The cheapest option and those nearest to the relaxed problem's."""
    cheapest = np.argmin((layer.c_OB / np.maximum(limit_B, 1)).sum(1))
    nearest = np.argsort(layer.priced(lambda_B), kind="stable")[:NEAR]
    return layer.at(np.unique(np.append(nearest, cheapest)))


def undominated(c_SB: np.ndarray, loss_S: np.ndarray) -> np.ndarray:
    """Places, by rising cost, of what nothing else beats in cost and in loss; of equals the first.

    With several budgets only what costs the same is compared.
    """
    order = np.lexsort((loss_S, *c_SB.T[::-1]))
    c_SB, loss_S = c_SB[order], loss_S[order]
    if c_SB.shape[1] > 1:
        return order[np.append(True, (c_SB[1:] != c_SB[:-1]).any(1))[: len(order)]]
    return order[np.append(True, loss_S[1:] < np.minimum.accumulate(loss_S)[:-1])[: len(order)]]
