"""How well a criterion agrees with the oracle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_exp.pruning.combine import normalise_by_l2


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of a criterion's scores with the oracle's.

    Attributes:
        layers: within each layer; None where it is not defined, as one side has equal scores only.
        per_layer: the mean over the layers that have one; None without any.
        raw: over the filters of all layers together, the scores as they are; None where not defined.
        normalised: the same with the criterion's scores divided by their norm, layer by layer.
    """

    layers: dict[str, float | None]
    per_layer: float | None
    raw: float | None
    normalised: float | None


def measure_agreement(scores: Mapping[str, Tensor], oracle: Mapping[str, Tensor]) -> Agreement:
    r"""Spearman's rank correlation, per layer and over all layers, with and without layer-wise normalisation.

    .. math:: S = 1 - \frac{6}{N (N^2 - 1)} \sum_i d_i^2

    with d_i the difference of the two ranks of filter i; equal scores share the mean of their ranks (`scipy.stats`).

    Args:
        scores: of the criterion, by layer.
        oracle: of the oracle, by layer; the layers that both have are compared.

    Raises:
        ValueError: no layer in common, a layer with different numbers of filters.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", table of correlations: its three rows.

    >>> agreement = measure_agreement({"a": torch.tensor([1.0, 2.0, 3.0])}, {"a": torch.tensor([0.1, 0.5, 0.2])})
    >>> round(agreement.raw, 6)
    0.5
    """
    layers = [layer for layer in scores if layer in oracle]
    if not layers:
        raise ValueError(f"criterion and oracle have no layer in common: {', '.join(scores)}; {', '.join(oracle)}")
    for layer in layers:
        if len(scores[layer]) != len(oracle[layer]):
            raise ValueError(f"{layer}: {len(scores[layer])} scores, but {len(oracle[layer])} of the oracle")
    chosen = {layer: scores[layer] for layer in layers}
    every = torch.cat([oracle[layer] for layer in layers])
    within = {layer: _spearman(chosen[layer], oracle[layer]) for layer in layers}
    defined = [S for S in within.values() if S is not None]
    return Agreement(
        layers=within,
        per_layer=sum(defined) / len(defined) if defined else None,
        raw=_spearman(torch.cat(list(chosen.values())), every),
        normalised=_spearman(torch.cat(list(normalise_by_l2(chosen).values())), every),
    )


def _spearman(a: Tensor, b: Tensor) -> float | None:
    from scipy.stats import spearmanr

    if len(a) < 2 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return None
    S = float(spearmanr(a.numpy(), b.numpy()).statistic)
    return None if math.isnan(S) else S
