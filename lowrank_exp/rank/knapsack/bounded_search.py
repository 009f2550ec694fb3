"""Search for one option of every layer with the lowest sum of losses within limits, and for a proof that it is.

Legend: O options of a layer, L layers, B budgets, S partial choices (options of the first layers); c_OB
costs, C_B limits, lambda_B prices of the relaxed problem.
"""

import math
import time
from collections.abc import Sequence

import numpy as np

from lowrank_exp.rank.knapsack.partition import divide
from lowrank_exp.rank.knapsack.relaxation import Completion, LayerOptions, find_prices, find_undominated, rounding_error

WIDTHS = (2**6, 2**10, 2**14, 2**18, 2**20)  # partial choices kept in one pass after the other
NEAR = 8  # options of a layer in a pass over few
ROWS = 2**20  # partial choices joined at a time, and in all in the pass over the whole problem

Found = tuple[list[int] | None, float, float]  # places of the options chosen, their loss, and a loss none is below
NOTHING: Found = (None, math.inf, math.inf)


def search(layers: Sequence[LayerOptions], C_B: np.ndarray, until: float) -> Found:
    """Places of the best choice found, its loss, and a loss below which there is none.

    The two losses are equal where the choice is proved to be the best; where nothing fits they are inf, and the choice
    is None. Once a choice is known the search ends at the time `until` (`time.monotonic`).

    Budgets without a price are left out at first. The whole problem is searched next, then parts of it, those with the
    lowest bounds first.
    """
    lambda_B = find_prices(layers, C_B)
    if lambda_B is None:
        return NOTHING
    # A budget without a price does not bind the relaxed problem, and often not the best choice. With fewer budgets far
    # more partial choices compare, so that comes first; leaving a budget out only lowers losses, so the bound holds.
    if (priced := lambda_B > 0).any() and not priced.all():
        choice, loss, bound = search([layer.under(priced) for layer in layers], C_B[priced], until)
        if choice is None or (_cost(layers, choice) <= C_B).all():
            return choice, loss, bound
    # A first choice, cheaply: whatever cannot beat it is forgotten in all that follows.
    most = max(WIDTHS[0], ROWS // sum(map(len, layers)))
    best, loss, bound = _search_in_passes(layers, C_B, lambda_B, min(WIDTHS[1], most), math.inf, until)
    # What is between the choice and the bound comes mostly from bumps in the losses, which hulls cut through: on either
    # side of a bump bounds are higher.
    left = [] if bound >= loss else divide(layers, C_B, lambda_B, loss, bound)
    # Narrow passes over all parts come before a wide one over any: a better choice rules out parts for less.
    for width in WIDTHS:
        waiting, left = left, []
        for part_bound, part in waiting:
            if part_bound >= loss:
                continue
            if best and time.monotonic() > until:
                left.append((part_bound, part))
                continue
            choice, reached, missed = _search_in_passes(part, C_B, find_prices(part, C_B), width, loss, until)
            if choice is not None and reached < loss:
                best, loss = choice, reached
            if missed < loss:
                left.append((max(part_bound, missed), part))
    # Nothing is below the lowest bound of the parts that are left; none left: the choice is the best.
    return best, loss, max(bound, min([loss, *(part_bound for part_bound, _ in left)]))


def _cost(layers: Sequence[LayerOptions], choice: Sequence[int]) -> np.ndarray:
    return sum(layer.costs[layer.places == place][0] for layer, place in zip(layers, choice, strict=True))


def _search_in_passes(
    layers: Sequence[LayerOptions],
    C_B: np.ndarray,
    lambda_B: np.ndarray | None,
    width: int,
    known: float,
    until: float,
) -> Found:
    """As `search`, by a pass over few options, then one over all; only for choices not above the `known` loss."""
    if lambda_B is None:
        return NOTHING
    slack = rounding_error(layers, C_B, lambda_B)
    relaxed = sum(float(layer.priced(lambda_B).min()) for layer in layers) - float(lambda_B @ C_B)
    best, loss, bound = None, known, relaxed - slack
    for few, kept in ((True, WIDTHS[0]), (False, width)):
        # An option that lacks more than the known choice leaves, even if all other layers had their best, is in no
        # better choice. With a known loss near the bound few options remain: that makes exact searches short.
        layers = [layer.at(layer.lacks(lambda_B) + relaxed <= loss + slack) for layer in layers]
        if not all(map(len, layers)):
            return best, loss if best else math.inf, loss
        tried = [_keep_nearest(layer, lambda_B, C_B) for layer in layers] if few else layers
        # Time counts only with a choice at hand: some plan must come out.
        passed = _join_layers(tried, C_B, lambda_B, kept, loss, slack, until if loss < math.inf else math.inf)
        if passed is None:
            break
        choice, reached, dropped = passed
        if choice is not None and reached <= loss:
            best, loss = choice, reached
        if sum(map(len, tried)) == sum(map(len, layers)):  # over fewer options a pass proves nothing
            bound = max(bound, dropped)
        if bound + 2 * slack >= loss:  # no further apart than rounding
            bound = loss
            break
    return best, loss if best else math.inf, min(loss, bound)


def _keep_nearest(layer: LayerOptions, lambda_B: np.ndarray, C_B: np.ndarray) -> LayerOptions:
    """The cheapest option and those nearest to the relaxed problem's."""
    cheapest = np.argmin((layer.costs / np.maximum(C_B, 1)).sum(1))
    nearest = np.argsort(layer.lacks(lambda_B), kind="stable")[:NEAR]
    return layer.at(np.unique(np.append(nearest, cheapest)))


def _join_layers(
    layers: Sequence[LayerOptions],
    C_B: np.ndarray,
    lambda_B: np.ndarray,
    width: int,
    known: float,
    slack: float,
    until: float,
) -> Found | None:
    """The best choice, its loss, and the lowest bound of what was dropped; None where time ran out.

    Layers are joined one by one. Partial choices whose bound exceeds the `known` loss are forgotten; of others `width`
    are kept and the rest is dropped.
    """
    completion = Completion(layers, lambda_B, C_B)
    c_SB, loss_S = np.zeros((1, len(C_B)), np.int64), np.zeros(1, np.int64)
    dropped, trail = math.inf, []
    for stage, layer in enumerate(layers, start=1):
        joined = []
        block = max(1, ROWS // len(layer))
        for start in range(0, len(loss_S), block):
            if time.monotonic() > until:
                return None
            c_NB = (c_SB[start : start + block, None] + layer.costs).reshape(-1, len(C_B))
            loss_N = (loss_S[start : start + block, None] + layer.losses).ravel()
            bound_N = completion.bound(stage, c_NB, loss_N)
            kept = np.flatnonzero((bound_N <= known + slack) & np.isfinite(bound_N))
            joined.append((c_NB[kept], loss_N[kept], bound_N[kept], kept + start * len(layer)))
        c_SB, loss_S, bound_S, origin_S = (np.concatenate(of_all) for of_all in zip(*joined, strict=True))
        # What completes a partial choice completes every other one of the same layers: of those, the beaten can go.
        kept = find_undominated(c_SB, loss_S)
        if len(kept) > width:
            # The lowest bound of what is dropped tells afterwards whether a better choice may have been among it.
            cut = float(np.partition(bound_S[kept], width)[width])
            kept, dropped = kept[_keep_best(bound_S[kept], cut, slack, width)], min(dropped, cut - slack)
        if not len(kept):
            return None, math.inf, dropped
        c_SB, loss_S = c_SB[kept], loss_S[kept]
        trail.append(np.divmod(origin_S[kept], len(layer)))

    state = int(np.lexsort((*c_SB.T[::-1], loss_S))[0])  # the least loss, of equal ones the least cost
    loss, choice = int(loss_S[state]), []
    for layer, (parent_S, option_S) in zip(reversed(layers), reversed(trail), strict=True):
        choice.append(int(layer.places[option_S[state]]))
        state = parent_S[state]
    return choice[::-1], loss, dropped


def _keep_best(bound_S: np.ndarray, cut: float, slack: float, width: int) -> np.ndarray:
    """As many as `width` with the lowest bounds; of those equal to the cut some of every cost."""
    better, tied = np.flatnonzero(bound_S < cut - slack), np.flatnonzero(abs(bound_S - cut) <= slack)
    spread = np.linspace(0, len(tied) - 1, width - len(better)).round().astype(np.int64)
    return np.sort(np.append(better, tied[spread]))
