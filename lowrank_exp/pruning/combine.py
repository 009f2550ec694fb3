"""Scores brought to one measure, added up, and set against what a filter costs.

Legend: Theta_l^k the score of filter k of layer l; scores are `{layer: s_O}`, float64.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lowrank_exp.checks import one_of

Scores = Mapping[str, Tensor]
FORMS = ("none", "l2", "layer_rank", "rank")


def normalise(scores: Scores, form: str = "l2") -> dict[str, Tensor]:
    """Scores of all layers in one measure.

    Args:
        scores: by layer.
        form: `none`, as they are; `l2`, see `normalise_by_l2`; `layer_rank` and `rank`, see `rank_scores`.

    Raises:
        ValueError: another form.
    """
    one_of("form", form, FORMS)
    if form == "none":
        return dict(scores)
    return (
        normalise_by_l2(scores)
        if form == "l2"
        else rank_scores(scores, over="layer" if form == "layer_rank" else "all")
    )


def normalise_by_l2(scores: Scores) -> dict[str, Tensor]:
    r"""Every layer's scores divided by their Euclidean norm; a layer of zeros stays one.

    .. math:: \hat\Theta_l^k = \Theta_l^k \Big/ \sqrt{\textstyle\sum_j (\Theta_l^j)^2}

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", layer-wise l2 normalisation.

    >>> normalise_by_l2({"conv": torch.tensor([3.0, 4.0])})["conv"].tolist()
    [0.6, 0.8]
    """
    double = {layer: s_O.double() for layer, s_O in scores.items()}
    norms = {layer: float(torch.linalg.vector_norm(s_O)) for layer, s_O in double.items()}
    return {layer: s_O / norms[layer] if norms[layer] else s_O for layer, s_O in double.items()}


def rank_scores(scores: Scores, over: str = "layer") -> dict[str, Tensor]:
    """The place of every score among others, as a share above 0 up to 1; equal scores share the mean of their places.

    Args:
        scores: by layer.
        over: `layer`, among those of its layer: a ranking over all layers then takes the same share of each; `all`,
            among those of all layers.

    Raises:
        ValueError: another `over`.

    >>> rank_scores({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([9.0, 7.0])}, over="all")["a"].tolist()
    [0.5, 0.25]
    """
    from scipy.stats import rankdata

    one_of("over", over, ("layer", "all"))
    if over == "layer":
        return {layer: torch.from_numpy(rankdata(s_O.numpy()) / len(s_O)) for layer, s_O in scores.items()}
    every = torch.cat([s_O.double() for s_O in scores.values()])
    places = torch.from_numpy(rankdata(every.numpy()) / len(every))
    return dict(zip(scores, places.split([len(s_O) for s_O in scores.values()]), strict=True))


def take_off_costs(scores: Scores, costs: Mapping[str, float], weight: float = 1e-3) -> dict[str, Tensor]:
    r"""Scores less what a filter costs: of two equal ones the dearer goes first.

    .. math:: \Theta(z_l^k) \leftarrow \Theta(z_l^k) - \lambda \, \Theta^{\text{flops}}_l

    Args:
        scores: by layer (or by group of channels), in one measure.
        costs: what removing one filter of each layer would save now, in any unit; it falls as neighbouring layers
            shrink, so measure it anew for every ranking.
        weight: lambda, per unit of the costs; 1e-3 is the paper's.

    Raises:
        ValueError: a layer without a cost.

    Source: Molchanov et al. 2017, FLOPs regularization.

    >>> take_off_costs({"conv": torch.tensor([0.5])}, {"conv": 100.0})["conv"].tolist()
    [0.4]
    """
    if missing := [layer for layer in scores if layer not in costs]:
        raise ValueError(f"{missing[0]} has no cost: give what one of its filters saves")
    return {layer: s_O.double() - weight * costs[layer] for layer, s_O in scores.items()}


def weighted_sum(several: Sequence[Scores], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of the scores of several criteria, layer by layer; bring them to one measure before.

    Raises:
        ValueError: not as many weights as criteria, or scores of different layers.

    >>> weighted_sum([{"conv": torch.tensor([1.0, 2.0])}, {"conv": torch.tensor([0.0, 4.0])}], [1.0, 0.5])["conv"]
    tensor([1., 4.], dtype=torch.float64)
    """
    if not several or len(several) != len(weights):
        raise ValueError(f"one weight for each criterion: got {len(several)} criteria and {len(weights)} weights")
    if len({frozenset(scores) for scores in several}) > 1:
        raise ValueError("the criteria do not score the same layers: give each the same ones")
    return {
        layer: torch.stack([w * s[layer].double() for s, w in zip(several, weights, strict=True)]).sum(dim=0)
        for layer in several[0]
    }
