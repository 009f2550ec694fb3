"""What a rank policy knows of a layer: what it costs dense, and what each of its decompositions offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lowrank_exp.decomposition import Rank, decomposition_named
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.offer import NO_OFFER, Cost, Costs, Offer


@dataclass(frozen=True)
class LayerProfile:
    """One layer's options: dense, or a rank of one of its `offers`, one for each decomposition that it may have.

    Numbers and names alone, so it can be pickled and written down. Most layers have one offer, and policies that do not
    choose among decompositions see profiles with one: the properties below are those of the first. A layer that cannot
    be decomposed has a `refusal` and no offers; its properties are empty.

    Of a profile with times `timed` has the conditions of their measurement (runtime, version, threads, batch size,
    machine ...), the same for all layers; None: there are no times.
    """

    name: str
    kind: str  # conv or linear
    dense: Cost
    offers: tuple[Offer, ...] = ()
    refusal: str | None = None
    shape: LayerShape | None = field(default=None, repr=False)  # for ranks off the ladders; None: these cannot be had
    dense_option: bool = True  # False: a rank must be chosen, cheaper than dense or not
    compressed: bool = False  # the network had been compressed before
    timed: Mapping[str, Any] | None = field(default=None, repr=False)
    tried: bool = field(default=False, repr=False, compare=False)  # in the network, by `lowrank_exp.replacing.trial`

    @property
    def alternatives(self) -> tuple["LayerProfile", ...]:
        """The same layer by each of its offers alone."""
        return (self,) if len(self.offers) < 2 else tuple(replace(self, offers=(offer,)) for offer in self.offers)

    @property
    def offer(self) -> Offer:
        """The first, or an empty one."""
        return self.offers[0] if self.offers else NO_OFFER

    @property
    def macs(self) -> int:
        """MACs of the dense layer for one image."""
        return self.dense.macs

    @property
    def weights(self) -> int:
        """Entries of the dense weight."""
        return self.dense.weights

    @property
    def bytes(self) -> int:
        """Bytes of the dense weight in a file."""
        return self.dense.bytes

    @property
    def latency(self) -> int:
        """Nanoseconds that the dense layer takes; 0 without times."""
        return self.dense.latency

    @property
    def decomposition(self) -> str | None:
        """The name of the decomposition."""
        return self.offer.decomposition or None

    @property
    def options(self) -> dict:
        """The decomposition's options."""
        return self.offer.options

    @property
    def ranks(self) -> Sequence[Rank]:
        """The ranks on the ladder."""
        return self.offer.ranks

    @property
    def rungs(self) -> int:
        """Number of ranks on the ladder."""
        return len(self.offer.ranks)

    @property
    def full_rank(self) -> Rank:
        """The highest rank on the ladder; 0 where there is none."""
        return self.offer.ranks[-1] if self.rungs else 0

    @property
    def highest_rank(self) -> Rank:
        """The highest that the decomposition takes; a ladder with times may end below it."""
        if self.timed is None or self.shape is None or not self.offers:
            return self.full_rank
        return decomposition_named(self.offer.decomposition, **self.options).full_rank(self.shape.layer())

    @property
    def r_max(self) -> int:
        """The rung at which the factors need about as many bytes as the dense layer, at least 1."""
        if not self.rungs:
            return 0
        return round(float(np.interp(self.bytes, self.rank_bytes, np.arange(1, self.rungs + 1))))

    @property
    def rank_macs(self) -> np.ndarray:
        """MACs of the factors, `(rungs,)`."""
        return self.offer.costs.macs

    @property
    def rank_weights(self) -> np.ndarray:
        """Weights of the factors, `(rungs,)`."""
        return self.offer.costs.weights

    @property
    def rank_bytes(self) -> np.ndarray:
        """Bytes of the factors' weights in a file, `(rungs,)`."""
        return self.offer.costs.bytes

    @property
    def rank_latency(self) -> np.ndarray:
        """Nanoseconds that the factors take, `(rungs,)`; empty without times."""
        return self.offer.costs.latency

    @property
    def singular_values(self) -> np.ndarray:
        """Of every group, falling, `(G, full rank)`; `(1, 0)` where a decomposition has none."""
        return self.offer.singular_values

    @property
    def energy(self) -> np.ndarray:
        """Share of the weight's squared norm that each rung keeps, `(rungs,)`."""
        return self.offer.energy

    @property
    def error(self) -> np.ndarray:
        """Squared error of the weight relative to its squared norm at each rung, `(rungs,)`.

        The one that its factors reach where that was measured (`with_errors`), else what is left of the energy.
        """
        return self.offer.errors if len(self.offer.errors) else 1.0 - self.offer.energy

    @property
    def response(self) -> np.ndarray:
        """Squared error of the responses relative to their square, `(rungs,)`; empty where it was not measured."""
        return self.offer.responses

    @property
    def nuclear(self) -> np.ndarray:
        """Sum of the first singular values at each rung, the mean over groups, `(rungs,)`; empty without any."""
        return self.offer.nuclear

    @property
    def unfoldings(self) -> tuple[tuple[np.ndarray, int], ...]:
        """The matrices that a rank cuts: singular values `(G, L)` and longer side of each."""
        return self.offer.unfoldings

    @property
    def saves(self) -> tuple[str, ...]:
        """What a lower rank can lower: macs, weights, bytes."""
        return self.offer.saves

    @property
    def sampled_ranks(self) -> tuple[Rank, ...]:
        """Ranks to which the layer alone was cut, to measure the accuracy of the network."""
        return self.offer.sampled_ranks

    @property
    def sampled_accuracy(self) -> np.ndarray:
        """The accuracy at these."""
        return self.offer.sampled_accuracy

    @property
    def sensitivity(self) -> np.ndarray:
        """By how much the loss is expected to rise at each rung, `(rungs,)`; empty where it was not measured."""
        return self.offer.sensitivity

    def cost(self, rank: Rank | None) -> Cost:
        """What the layer costs at a rank, on the ladder or not; dense at None. There are times on the ladder alone.

        Raises:
            ValueError: no such rank.
        """
        if rank is None:
            return self.dense
        if rank in self.ranks:
            return self.offer.costs.at(self.ranks.index(rank))
        if self.shape is None or not self.offers:
            raise ValueError(f"{self.name}: rank {rank!r} is not one of {_shown(self.ranks)}")
        decomposition = decomposition_named(self.offer.decomposition, **self.options)
        rank = decomposition.check_rank(self.shape.layer(), rank, self.name)
        return self.shape.costs(decomposition, [rank]).at(0)

    def costs_at(self, ranks: Sequence[Rank]) -> Costs:
        """`cost` of several ranks, on the ladder or not, in one go; with times where all are on a ladder with times."""
        place_of = {rank: place for place, rank in enumerate(self.ranks)}
        if all(rank in place_of for rank in ranks) or self.shape is None:
            return self.offer.costs.some([place_of[rank] for rank in ranks])
        return self.shape.costs(decomposition_named(self.offer.decomposition, **self.options), ranks)

    def energy_at(self, ranks: Sequence[Rank]) -> np.ndarray:
        """Share of the squared norm that these ranks keep, `(len(ranks),)`; they may lie off a ladder of pairs.

        Without numbers (on the meta device) that is the mean share of the full ranks; where the decomposition has no
        `kept_tables`, what the highest rung that is nowhere above a rank keeps.
        """
        offer, full = self.offer, self.full_rank
        if not isinstance(full, tuple):
            return offer.energy[[offer.ranks.index(rank) for rank in ranks]]
        if offer.made_up:
            return np.array([np.mean(np.divide(rank, full)) for rank in ranks])
        if offer.kept_tables:
            return decomposition_named(offer.decomposition, **offer.options).kept_at(offer.kept_tables, ranks)
        return offer.energy[[self.place_below(rank) for rank in ranks]]

    def usable(self, rank: tuple[int, ...]) -> tuple[int, ...]:
        """The lowest rank, in no number below `rank`, of which every number is of use beside the others."""
        if self.shape is None:
            return rank
        return decomposition_named(self.offer.decomposition, **self.options).usable(self.shape.layer(), rank)

    def place_below(self, rank: tuple[int, ...]) -> int:
        """The place of the highest rank on the ladder that is nowhere above `rank`, from 0."""
        below = [at for at, one in enumerate(self.ranks) if all(a <= b for a, b in zip(one, rank, strict=True))]
        return below[-1] if below else 0


def _shown(ranks: Sequence[Rank]) -> str:
    return f"{ranks[0]} to {ranks[-1]}" if isinstance(ranks, range) else ", ".join(map(str, ranks[:20]))
