"""Sensitivity: by how much the loss is expected to rise when a layer is cut to a rank."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowrank_exp.decomposition import decomposition_named, recompose
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.network.modes import evaluating
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer

RUNGS = 32  # computed, of a ladder that has more; a monotone cubic between


def with_sensitivity(
    layers: Mapping[str, LayerProfile],
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    store: SVDStore | None = None,
) -> dict[str, LayerProfile]:
    r"""The profiles with the sensitivity of every rung, from the gradients of a few batches.

    .. math:: \Delta L_l(r) \approx \tfrac12 \sum_{ij} F_{ij} (W - \hat W_r)_{ij}^2, \qquad
        F = \frac{1}{N} \sum_b \Bigl( \sum_{n \in b} \nabla_W \ell_n \Bigr)^2

    the second-order rise of the loss, in nats, at a minimum of it, with the diagonal of the Fisher information in the
    place of the Hessian. Of a ladder of more than 32 rungs, 32 are computed.

    Args:
        layers: as `profile` gives them for this model.
        model: a network that gives logits `(N, C)`; it is not changed. In eval mode meanwhile.
        batches: images `(N, ...)` and labels `(N,)`, of the training set; smaller batches estimate F better.
        store: where SVDs are kept; None computes them.

    Raises:
        ValueError: there are no images.

    Source: the diagonal Fisher approximation of pruning (Theis et al. 2018, "Faster gaze prediction with dense networks
    and Fisher pruning"), applied to the error of a decomposition.

    Differs from the paper:
        1. Gradients of a batch are summed before they are squared; those of different images do not correlate at a
           minimum, so the expectation is the same.
    """
    modules = dict(model.named_modules())
    wanted = [name for name, layer in layers.items() if layer.rungs]
    F = _estimate_fisher(model, {name: modules[name].weight for name in wanted}, batches)
    measured = {
        name: tuple(_measure(offer, modules[name], F[name], store) for offer in layers[name].offers) for name in wanted
    }
    return {n: replace(layer, offers=measured[n]) if n in measured else layer for n, layer in layers.items()}


def _estimate_fisher(model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    count = 0
    device = next(model.parameters()).device
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for images, labels in batches:
                loss = cross_entropy(model(images.to(device)).float(), labels.to(device), reduction="sum")
                gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    if gradient is not None:
                        total += gradient.double() ** 2
                count += len(labels)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    if not count:
        raise ValueError("sensitivity needs images and labels, the batches gave none")
    return {name: total / count for name, total in sums.items()}


def _measure(offer: Offer, module: nn.Module, F: Tensor, store: SVDStore | None) -> Offer:
    from scipy.interpolate import PchipInterpolator

    factorized = decomposition_named(offer.decomposition, **offer.options).factorizer(module, store)
    count = len(offer.ranks)
    rungs = np.unique(np.round(np.linspace(1, count, min(count, RUNGS))).astype(int))
    W, rise = module.weight.detach().double(), []
    with torch.no_grad():
        for rung in rungs:
            W_r = recompose(factorized(offer.ranks[rung - 1])).weight.double()
            rise.append(float((F * (W - W_r) ** 2).sum() / 2))
    every = PchipInterpolator(rungs, rise)(np.arange(1, count + 1)) if len(rungs) > 1 else np.array(rise)
    return replace(offer, sensitivity=np.maximum(every, 0.0))
