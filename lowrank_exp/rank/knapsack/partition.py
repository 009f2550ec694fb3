"""Parts of a multiple-choice knapsack that are nearly convex, and what each of them can reach.

Legend: O options of a layer, L layers, B budgets, P parts, G prices tried; C_B limits, lambda_B prices.
"""

from collections.abc import Sequence

import numpy as np

from lowrank_exp.rank.knapsack.relaxation import LayerOptions, rounding_error

PARTS = 256  # at most
PRICES = 1000  # tried
FACTOR = 12.0  # between the prices of the relaxed problem and the highest or lowest tried
BUMP = 0.05  # of the gap between a choice and the bound


def divide(
    layers: Sequence[LayerOptions], C_B: np.ndarray, lambda_B: np.ndarray, loss: float, bound: float
) -> list[tuple[float, list[LayerOptions]]]:
    r"""Bounds and layers of parts that make up all choices of a lower loss, lowest bound first.

    .. math:: \max_\lambda \sum_l \min_{o \in O_{lp}} (\text{loss}_{lo} + \lambda \cdot c_{lo}) - \lambda \cdot C

    In a part a layer has only the options O_lp on one side of a bump in its losses, such as the one between its highest
    rank and dense. The relaxed problem would mix a low rank and dense, at a loss that no rank between them has. Where
    that makes too many parts the whole problem is the only one.
    """
    slack = rounding_error(layers, C_B, lambda_B)
    bumps = [(l, *_split_at_bump(layer, C_B, lambda_B)) for l, layer in enumerate(layers)]
    bumps.sort(key=lambda of_layer: -of_layer[1])
    divided = {l: sides for l, height, *sides in bumps if height > BUMP * (loss - bound)}
    # Each part has prices of its own at which its bound is highest. A grid of prices around those of the whole problem
    # serves them all: at every price a bound is a sum over layers, so a part costs one sum, not a linear programme.
    lambda_BG = _list_prices(layers, C_B, lambda_B)
    bound_PG = (sum(layer.priced(lambda_BG).min(0) for layer in layers) - C_B @ lambda_BG)[None]
    side_PL = np.full((1, len(layers)), -1)
    for l, sides in divided.items():
        rest_PG = bound_PG - layers[l].priced(lambda_BG).min(0)
        # Every part so far becomes two: the layer's share of the bound gives way to that of one side.
        both_PG = np.concatenate([rest_PG + side.priced(lambda_BG).min(0) for side in sides])
        kept = np.flatnonzero(both_PG.max(1) <= loss + slack)
        if len(kept) > PARTS:  # more than the search could go through one by one
            return [(bound, list(layers))]
        bound_PG, side_PL = both_PG[kept], np.concatenate([side_PL, side_PL])[kept]
        side_PL[:, l] = kept >= len(rest_PG)
    bound_P = bound_PG.max(1) - slack
    return [
        (float(bound_P[p]), [divided[l][side] if side >= 0 else layers[l] for l, side in enumerate(side_PL[p])])
        for p in np.argsort(bound_P, kind="stable")
    ]


def _split_at_bump(
    layer: LayerOptions, C_B: np.ndarray, lambda_B: np.ndarray
) -> tuple[float, LayerOptions, LayerOptions]:
    """How high the highest bump is, 0 where there is none, and the options up to it and beyond."""
    order = np.argsort((layer.costs / np.maximum(C_B, 1)).sum(1), kind="stable")
    lack_O = layer.lacks(lambda_B)[order]
    # How far an option stands above the better ones on both sides of it, which the relaxed problem mixes in its place.
    height_O = lack_O - np.maximum(np.minimum.accumulate(lack_O), np.minimum.accumulate(lack_O[::-1])[::-1])
    top = int(np.argmax(height_O))
    return float(height_O[top]), layer.at(np.sort(order[: top + 1])), layer.at(np.sort(order[top + 1 :]))


def _list_prices(layers: Sequence[LayerOptions], C_B: np.ndarray, lambda_B: np.ndarray) -> np.ndarray:
    """Prices `(B, G)` around those of the relaxed problem, and 0."""
    usual_B = sum(np.ptp(layer.losses) for layer in layers) / np.maximum(np.abs(C_B), 1)
    number = 2 * round(PRICES ** (1 / len(C_B)) / 2)
    # With several budgets as many factors for each as make about PRICES combinations.
    factors = np.append(0.0, np.geomspace(1 / FACTOR, FACTOR, number - 1))
    axes = [factors * price for price in np.where(lambda_B > 0, lambda_B, usual_B)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
