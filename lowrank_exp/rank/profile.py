"""A profile: what each layer would cost and keep at each rank. Numbers only; the policies see nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor, nn

from lowrank_exp.decomposition import Decomposition, Decompositions, Rank, SVDDecomposition
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.decomposition.fitting.energy import energy_of
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.network.cost import OUTSIDE, LayerCost, check_network, network_cost
from lowrank_exp.network.names import by_layer
from lowrank_exp.network.records import edited
from lowrank_exp.rank.at_rank import Cost, CostAt, EnergyAt, EnergyOnLadder, costs_of
from lowrank_exp.replacing import trial, unsafe


@dataclass(frozen=True)
class LayerProfile:
    """One layer's options: dense, or one of the rungs of a ladder of ranks, cheapest first.

    Everything but `singular_values` `(G, full rank)` is indexed by rung - 1. Most ladders are the ranks 1, 2 ... full,
    which is what an empty `ladder` says; a rung of Tucker-2 is a pair of ranks. A layer that cannot be decomposed has a
    `refusal` and empty arrays. Where several decompositions may be chosen from, this is the first, and `others` has the
    same layer by the others. It can be pickled; where a rank has several numbers, the weight goes with it.
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
    ladder: tuple[Rank, ...] = field(default=(), repr=False)
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)  # where singular values do not tell
    weight_bytes: int | None = None  # of the dense weight in a file; None: four for every entry
    weight_bytes_at: np.ndarray | None = field(default=None, repr=False)
    saves: tuple[str, ...] = WHAT  # what a lower rank can lower
    unfoldings: tuple[tuple[np.ndarray, int], ...] = field(default=(), repr=False)  # see Decomposition.unfoldings
    cost_at: Callable[[Rank], Cost] | None = field(default=None, repr=False, compare=False)  # of ranks off the ladder
    dense_option: bool = True  # False: a rank must be chosen, cheaper than dense or not
    sampled_ranks: tuple[Rank, ...] = ()  # rising; the layer alone was cut to each of them, to measure the network ...
    sampled_accuracy: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)  # ... relative to the last
    sensitivity: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)  # rise of the loss, expected
    energy_at: Callable[[Sequence[Rank]], np.ndarray] | None = field(default=None, repr=False, compare=False)
    others: tuple["LayerProfile", ...] = field(default=(), repr=False)
    input_groups: int | None = None  # see Decomposition.input_groups
    ladder_follows_weights: bool = False  # see Decomposition.ladder_follows_weights
    compressed: bool = False  # the network had been compressed before
    tried: bool = field(default=False, repr=False, compare=False)  # in the network, by `lowrank_exp.replacing.trial`

    @property
    def rungs(self) -> int:
        """Number of ranks on the ladder."""
        return len(self.rank_weights)

    @property
    def ranks(self) -> Sequence[Rank]:
        """The ranks on the ladder."""
        return self.ladder or range(1, self.rungs + 1)

    @property
    def full_rank(self) -> Rank:
        """The highest rank; 0 where there is none."""
        return self.ranks[-1] if self.rungs else 0

    @property
    def bytes(self) -> int:
        """Bytes of the dense weight in a file."""
        return 4 * self.weights if self.weight_bytes is None else self.weight_bytes

    @property
    def rank_bytes(self) -> np.ndarray:
        """Bytes of the factors' weights in a file, `(rungs,)`."""
        return 4 * self.rank_weights if self.weight_bytes_at is None else self.weight_bytes_at

    def cost(self, rank: Rank | None) -> Cost:
        """What the layer costs at a rank, on the ladder or not; dense at None.

        Raises:
            ValueError: no such rank.
        """
        if rank is None:
            return Cost(self.macs, self.weights, self.bytes)
        if rank in self.ranks:
            rung = self.ranks.index(rank)
            return Cost(*(int(getattr(self, f"rank_{what}")[rung]) for what in WHAT))
        if self.cost_at is None:
            raise ValueError(f"{self.name}: rank {rank!r} is not one of {_listed(self.ranks)}")
        return self.cost_at(rank)

    @property
    def r_max(self) -> int:
        """The rung at which the factors need about as many bytes as the dense layer, at least 1."""
        if not self.rungs:
            return 0
        return round(float(np.interp(self.bytes, self.rank_bytes, np.arange(1, self.rungs + 1))))

    @property
    def energy(self) -> np.ndarray:
        """Share of the weight's squared norm that each rung keeps, `(rungs,)`."""
        return self.kept if len(self.kept) else self._at_rungs(energy_of(self.singular_values))

    @property
    def nuclear(self) -> np.ndarray:
        """Sum of the first singular values at each rung, the mean over groups, `(rungs,)`; empty without any."""
        return self._at_rungs(np.cumsum(self.singular_values.mean(0))) if self.singular_values.size else np.zeros(0)

    def _at_rungs(self, of_rank: np.ndarray) -> np.ndarray:
        """Of numbers for the ranks 1, 2 ... those of the ladder."""
        return of_rank[np.array(self.ladder, dtype=np.int64) - 1] if self.ladder else of_rank

    @property
    def error(self) -> np.ndarray:
        """Squared error of the weight relative to its squared norm at each rung, `(rungs,)`."""
        return 1.0 - self.energy


def profile(
    model: nn.Module,
    example_input: Tensor,
    decomposition: "str | Decomposition | Sequence | Mapping | Decompositions" = "spatial_svd",
    *,
    store: SVDStore | None = None,
) -> dict[str, LayerProfile]:
    """Measure every convolution and linear layer of `model` once, in network order.

    Two forward passes of one image try whether each may be replaced, see `lowrank_exp.replacing.trial`: a layer without
    which the network would fail or compute something else gets a `refusal` that says why.

    Behind them stands what no layer computes, under the names of `lowrank_exp.network.cost.OUTSIDE` and with a refusal,
    where there is such: convolutions called as functions, layers in plain lists. A budget counts them. Warns where
    torch counts still more, in products inside attention.

    Args:
        model: any network that takes one tensor; it is not changed. On the meta device the costs are exact and every
            singular value is 1.
        example_input: `(N, ...)`; costs are for one image.
        decomposition: a name, an object, or a mapping with `conv`, `linear` (linear SVD beside a convolution's
            decomposition unless said otherwise) and `layers` (exceptions by name); None leaves alone. A list of names
            or objects lets the policies `knapsack` and `alds` choose among them, layer by layer.
        store: where SVDs are kept for later use; None computes singular values alone.

    Raises:
        ValueError: an unknown decomposition, a weight that is not finite, an example input that does not suit the
            network, a bare layer or TorchScript as model.

    >>> import torch
    >>> layers = profile(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8), "channel_svd")
    >>> layers["0"].full_rank, layers["0"].r_max, layers["0"].rank_weights[:2].tolist()
    (8, 6, [35, 70])
    """
    chosen = Decompositions.of(decomposition)
    check_network(model)
    unsafe(model)  # a bare layer ends here
    cost = network_cost(model, example_input)
    cost.warn()
    costs, reasons = cost.layers, trial(model, example_input)
    modules = {name: module for name, module in model.named_modules() if name in costs}
    kinds = chosen.choices(modules)
    exceptions = by_layer(chosen.layers, modules, "decomposition.layers")
    reasons = {n: "left alone by decomposition.layers" for n, kinds in exceptions.items() if not kinds} | reasons
    found = {name: _joined(modules[name], cost, kinds[name], reasons.get(name), store) for name, cost in costs.items()}
    if edited(model):
        found = {name: replace(layer, compressed=True) for name, layer in found.items()}
    return found | {name: _outside(kind, cost.outside[name]) for kind, name in OUTSIDE.items() if name in cost.outside}


def _outside(kind: str, cost: LayerCost) -> LayerProfile:
    """What no layer computes: a budget counts it, nothing can make it cheaper."""
    return LayerProfile(
        cost.name, kind, cost.macs, cost.weights, refusal="no layer of the network computes them", tried=True
    )


def _joined(
    layer: nn.Module,
    cost: LayerCost,
    decompositions: Sequence[Decomposition],
    refusal: str | None,
    store: SVDStore | None,
) -> LayerProfile:
    """The profile by the first decomposition that can be done, with those by the others."""
    found = [_profile(layer, cost, kind, refusal, store) for kind in decompositions or (None,)]
    possible = [one for one in found if one.refusal is None]
    if not possible:
        return replace(found[0], refusal="; ".join(dict.fromkeys(one.refusal for one in found)))
    return replace(possible[0], others=tuple(possible[1:]))


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
    else:
        refusal = refusal or decomposition.refusal(layer)
    if refusal:
        size = cost.weights * layer.weight.element_size()
        return LayerProfile(cost.name, kind, cost.macs, cost.weights, refusal=refusal, weight_bytes=size, tried=True)
    decomposition.check_weight(layer, cost.name)
    ladder = decomposition.ladder(layer)
    singular_values, kept = _spectrum(layer, decomposition, ladder, store)

    macs, weights, size = costs_of(layer, decomposition, cost, ladder)
    found = LayerProfile(
        cost.name,
        kind,
        cost.macs,
        cost.weights,
        decomposition.name,
        macs,
        weights,
        singular_values,
        decomposition.options(),
        ladder=() if ladder == list(range(1, len(ladder) + 1)) else tuple(ladder),
        kept=kept,
        weight_bytes=layer.weight.numel() * layer.weight.element_size(),
        weight_bytes_at=size,
        saves=decomposition.saves,
        unfoldings=_unfoldings(layer, decomposition, singular_values),
        cost_at=CostAt.of(layer, decomposition, cost),
        input_groups=decomposition.input_groups,
        ladder_follows_weights=decomposition.ladder_follows_weights,
        tried=True,
    )
    several = isinstance(found.full_rank, tuple)
    energy_at = EnergyAt.of(layer, decomposition) if several else EnergyOnLadder(found.ranks, found.energy)
    return replace(found, energy_at=energy_at)


def _spectrum(
    layer: nn.Module, decomposition: Decomposition, ladder: Sequence[Rank], store: SVDStore | None
) -> tuple[np.ndarray, np.ndarray]:
    """Singular values `(G, rungs)` of an SVD, or the energies kept `(rungs,)` of another decomposition."""
    by_svd = isinstance(decomposition, SVDDecomposition)
    if layer.weight.is_meta:
        flat = np.arange(1, len(ladder) + 1) / len(ladder)
        return (np.ones((1, len(ladder))), np.zeros(0)) if by_svd else (np.zeros((1, 0)), flat)
    if not by_svd:
        return np.zeros((1, 0)), decomposition.energies(layer, ladder)
    values = store(decomposition, layer).S_GR if store is not None else decomposition.singular_values(layer)
    return values.cpu().numpy(), np.zeros(0)


def _unfoldings(
    layer: nn.Module, decomposition: Decomposition, singular_values: np.ndarray
) -> tuple[tuple[np.ndarray, int], ...]:
    """`decomposition.unfoldings(layer)`; of an SVD its singular values are known already, of a meta layer none."""
    if layer.weight.is_meta:
        return ((np.zeros((1, 0)), 0),) * decomposition.cuts
    if isinstance(decomposition, SVDDecomposition):
        return ((singular_values, max(decomposition.matrices(layer).shape[1:])),)
    return decomposition.unfoldings(layer)


def _listed(ranks: Sequence[Rank]) -> str:
    return f"{ranks[0]} to {ranks[-1]}" if isinstance(ranks, range) else ", ".join(map(str, ranks[:20]))
