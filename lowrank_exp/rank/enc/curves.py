"""ENC's quality: what a layer keeps of it at each rank, and what a whole network keeps.

Legend: r rank of a layer (rung of its ladder), r_max the one at which it is as large as dense, s singular values,
y_p and y_m quality by energy and by measurement, C and W MACs and weights that remain, A quality of the network.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.losses import kept

METRICS = ("A_c", "A_p", "A_m")


@dataclass(frozen=True)
class NetworkQuality:
    """MACs `C` and weights `W` that remain, as fractions, and the quality by three metrics; None: not measured."""

    C: float
    W: float
    A_p: float
    A_m: float | None
    A_c: float | None


def energy_curve(layer: LayerProfile) -> np.ndarray:
    r"""Quality by energy at the ranks 1 ... r_max, `(r_max,)`, from 0 to 1.

    .. math:: y_p(r) = \frac{S(r) - S(1)}{S(r_{max}) - S(1)}, \qquad S(r) = \sum_{d \le r} s_d

    with plain singular values, not squared. Groups of a convolution count together. A layer that gains nothing beyond
    rank 1 has quality 1 everywhere.

    Source: Kim, Khan, Kyung 2019 (ENC), supplementary material.

    Differs from the paper:
        1. Where a decomposition has no singular values (Tucker-2), S is the share of the squared norm that it keeps.
    """
    return _from_rank_one(layer.nuclear if layer.singular_values.size else layer.energy, layer.r_max)


def response_curve(layer: LayerProfile) -> np.ndarray:
    """`energy_curve` of what the ranks keep of the layer's responses.

    Raises:
        ValueError: response errors were not measured.
    """
    return _from_rank_one(kept(layer, "response"), layer.r_max)


def _from_rank_one(S_R: np.ndarray, r_max: int) -> np.ndarray:
    S_R = S_R[:r_max]
    span = S_R[-1] - S_R[0]
    return (S_R - S_R[0]) / span if span > 0 else np.ones(len(S_R))


def measured_curve(layer: LayerProfile) -> np.ndarray:
    """Quality by measurement at the ranks 1 ... r_max, `(r_max,)`; it may exceed 1.

    The monotone cubic through the sampled accuracies and (0, 0).

    Raises:
        ValueError: the layer's accuracy was not measured.

    Source: as `energy_curve`.
    """
    from scipy.interpolate import PchipInterpolator

    rungs_N, accuracy_N = samples(layer)
    y_m = PchipInterpolator(np.append(0, rungs_N) / rungs_N[-1], np.append(0, accuracy_N))
    return y_m(np.arange(1, layer.r_max + 1) / rungs_N[-1])


def samples(layer: LayerProfile) -> tuple[np.ndarray, np.ndarray]:
    """Rungs at which a layer's accuracy was measured, and the accuracy relative to the last.

    Raises:
        ValueError: there are none, or they do not rise, or are not ranks of the layer.
    """
    if not len(layer.sampled_ranks):
        raise ValueError(
            f"{layer.name} has no measured accuracy: measure it by lowrank_exp.with_accuracy(layers, score), or take a "
            "metric of energy"
        )
    accuracy_N = np.asarray(layer.sampled_accuracy, dtype=np.float64)
    if unknown := [rank for rank in layer.sampled_ranks if rank not in layer.ranks]:
        raise ValueError(f"{layer.name}: its sampled ranks {unknown} are none of its {layer.rungs} ranks")
    rungs_N = np.array([layer.ranks.index(rank) + 1 for rank in layer.sampled_ranks])
    rising = accuracy_N.shape == rungs_N.shape and np.all(np.diff(rungs_N) > 0)
    if not rising or not np.all(accuracy_N >= 0) or not accuracy_N[-1] > 0:
        raise ValueError(
            f"{layer.name}: sampled_ranks must rise, with one accuracy for each, the last above 0, got "
            f"{layer.sampled_ranks} and {accuracy_N.tolist()}"
        )
    if rungs_N[-1] < layer.r_max:
        highest = layer.ranks[layer.r_max - 1]
        raise ValueError(f"{layer.name}: the last of its sampled ranks must be at least {highest}, where curves end")
    return rungs_N, accuracy_N / accuracy_N[-1]


def network_quality(layers: Mapping[str, LayerProfile], ranks: Mapping[str, Rank | None]) -> NetworkQuality:
    r"""Cost and quality of a network at the given ranks; None is dense, with quality 1.

    .. math:: A_p = \prod_l y_{p,l}(r_l), \quad A_m = \prod_l y_{m,l}(r_l), \quad A_c = A_m + C \, A_p

    Raises:
        ValueError: names or ranks that the layers do not have.

    Source: Kim, Khan, Kyung 2019 (ENC), supplementary material, and the authors' code for A_c.
    """
    if ranks.keys() != layers.keys():
        raise ValueError(f"a rank is needed for every layer and no other, see {sorted(ranks.keys() ^ layers.keys())}")
    costs = [layer.cost(ranks[name]) for name, layer in layers.items()]
    C = sum(cost.macs for cost in costs) / sum(layer.macs for layer in layers.values())
    W = sum(cost.weights for cost in costs) / sum(layer.weights for layer in layers.values())
    cut = [layer for name, layer in layers.items() if ranks[name] is not None]
    rungs = [layer.ranks.index(ranks[layer.name]) for layer in cut]
    A_p = _product(map(energy_curve, cut), rungs)
    if not all(len(layer.sampled_ranks) for layer in cut):
        return NetworkQuality(C, W, A_p, None, None)
    A_m = _product(map(measured_curve, cut), rungs)
    return NetworkQuality(C, W, A_p, A_m, network_metric("A_c", A_p, A_m, C))


def network_metric(
    metric: str, A_p: np.ndarray | float, A_m: np.ndarray | float, C: np.ndarray | float
) -> np.ndarray | float:
    """One of `METRICS` from the qualities and the cost that remains: A_c = A_m + C A_p."""
    return {"A_p": A_p, "A_m": A_m}[metric] if metric != "A_c" else A_m + C * A_p


def _product(curves: Iterable[np.ndarray], rungs: Sequence[int]) -> float:
    return float(np.prod([y_R[min(rung, len(y_R) - 1)] for y_R, rung in zip(curves, rungs, strict=True)]))
