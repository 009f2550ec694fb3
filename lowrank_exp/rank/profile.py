"""A profile: what each layer would cost and keep at each rank. Numbers only; the policies see nothing else."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from lowrank_exp.cost import LayerCost, layer_costs
from lowrank_exp.decomposition import Decomposition, Decompositions, SVDDecomposition, refusals
from lowrank_exp.decomposition.store import SVDStore


@dataclass(frozen=True)
class LayerProfile:
    """One layer's options: dense, or one of the ranks 1 ... `full_rank`.

    `rank_macs`, `rank_weights` and the rows of `singular_values` `(G, full_rank)` are indexed by rank - 1. A layer that
    cannot be decomposed has a `refusal` and empty arrays.
    """

    name: str
    kind: str  # conv or linear
    macs: int
    weights: int
    decomposition: str | None = None
    rank_macs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    rank_weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    singular_values: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)), repr=False)
    options: dict = field(default_factory=dict)
    refusal: str | None = None

    @property
    def full_rank(self) -> int:
        """The rank at which nothing is lost."""
        return len(self.rank_weights)

    @property
    def r_max(self) -> int:
        """The rank at which the factors have about as many weights as the dense layer, at most the full rank."""
        if not self.full_rank:
            return 0
        return int(np.clip(round(self.weights / int(self.rank_weights[0])), 1, self.full_rank))

    @property
    def energy(self) -> np.ndarray:
        """Share of the squared singular values that ranks 1 ... full keep, `(full_rank,)`, the last one 1."""
        squared = (self.singular_values.astype(np.float64) ** 2).sum(axis=0)
        total = squared.sum()
        if total == 0:  # a layer of zeros loses nothing at any rank
            return np.ones(len(squared))
        kept = np.minimum(np.cumsum(squared) / total, 1.0)
        kept[-1] = 1.0
        return kept

    @property
    def error(self) -> np.ndarray:
        """Squared error of the weight relative to its squared norm at ranks 1 ... full, `(full_rank,)`."""
        return 1.0 - self.energy


def profile(
    model: nn.Module,
    example_input: Tensor,
    decomposition: "str | Decomposition | dict | Decompositions" = "spatial_svd",
    *,
    store: SVDStore | None = None,
) -> dict[str, LayerProfile]:
    """Measure every convolution and linear layer of `model` once, in network order.

    Args:
        model: any network that takes one tensor; it is not changed. On the meta device the costs are exact and every
            singular value is 1.
        example_input: `(N, ...)`; costs are for one image.
        decomposition: a name, an object, or a mapping with `conv` and `linear` (linear SVD beside a convolution's
            decomposition unless said otherwise; None leaves the kind alone).
        store: where SVDs are kept for later use; None computes singular values alone.

    Raises:
        ValueError: an unknown decomposition, a weight that is not finite, or a bare layer as model.

    >>> import torch
    >>> layers = profile(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8), "channel_svd")
    >>> layers["0"].full_rank, layers["0"].r_max, layers["0"].rank_weights[:2].tolist()
    (8, 6, [35, 70])
    """
    chosen = Decompositions.of(decomposition)
    reasons = refusals(model)
    modules = dict(model.named_modules())
    return {
        name: _profile(modules[name], cost, chosen.for_layer(modules[name]), reasons.get(name), store)
        for name, cost in layer_costs(model, example_input).items()
    }


def _profile(
    layer: nn.Module,
    cost: LayerCost,
    decomposition: Decomposition | None,
    refusal: str | None,
    store: SVDStore | None,
) -> LayerProfile:
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    if decomposition is None:
        refusal = refusal or f"no decomposition is configured for {kind} layers"
    elif not cost.input_shapes:
        refusal = refusal or "the network's forward pass does not call it"
    else:
        refusal = refusal or decomposition.refusal(layer)
    if refusal:
        return LayerProfile(cost.name, kind, cost.macs, cost.weights, refusal=refusal)
    decomposition.check_weight(layer, cost.name)
    return LayerProfile(
        cost.name,
        kind,
        cost.macs,
        cost.weights,
        decomposition.name,
        decomposition.rank_macs(layer, cost.input_shapes),
        decomposition.rank_weights(layer),
        _singular_values(layer, decomposition, store),
        decomposition.options(),
    )


def _singular_values(layer: nn.Module, decomposition: Decomposition, store: SVDStore | None) -> np.ndarray:
    if layer.weight.is_meta:
        return np.ones((1, decomposition.full_rank(layer)))
    if store is not None and isinstance(decomposition, SVDDecomposition):
        return store(decomposition, layer).S_GR.cpu().numpy()
    return decomposition.singular_values(layer).cpu().numpy()
