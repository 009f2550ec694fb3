"""What one decomposition offers for one layer: a ladder of ranks, what each costs and what it keeps. Numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.decomposition.fitting.energy import energy_of

BYTES = 4  # of a weight in a file, where nothing else is said
COSTS = (*WHAT, "latency")  # what a budget may bound: what sizes tell, and what is measured


@dataclass(frozen=True)
class Cost:
    """What a layer costs.

    `macs` of one image, `weights`, and `bytes` of the weights in a file (0: four for every weight). `latency`:
    nanoseconds of one forward pass, as measured on a runtime; 0 where nothing was measured, see `LayerProfile.timed`.
    """

    macs: int
    weights: int
    bytes: int = 0
    latency: int = 0

    def __post_init__(self) -> None:
        if not self.bytes:
            object.__setattr__(self, "bytes", BYTES * self.weights)


@dataclass(frozen=True)
class Costs:
    """The same of every rung, `(rungs,)` each; empty bytes: four for every weight; empty latency: not measured."""

    macs: np.ndarray
    weights: np.ndarray
    bytes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    latency: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.bytes):
            object.__setattr__(self, "bytes", BYTES * self.weights)

    def at(self, rung: int) -> Cost:
        """Those of one rung, counted from 0."""
        return Cost(**{what: int(getattr(self, what)[rung]) for what in self.known})

    def some(self, places: slice | Sequence[int]) -> "Costs":
        """Those of some rungs."""
        return Costs(**{what: getattr(self, what)[places] for what in self.known})

    @property
    def known(self) -> tuple[str, ...]:
        """The names of those that are known: not latency where it was not measured."""
        return COSTS if len(self.latency) else WHAT


def milliseconds(latency: float) -> float:
    """Of nanoseconds, in which the times of profiles are whole numbers."""
    return latency / 1e6


def _no_numbers() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True)
class Offer:
    """One decomposition of a layer: a ladder of ranks, cheapest first.

    What it keeps is told by `singular_values` `(G, full rank)`, or by `kept` `(rungs,)` where a decomposition has none.
    Most ladders are the ranks 1, 2 ... full; a rung of Tucker-2 is a pair of ranks. What was measured afterwards
    (`with_accuracy`, `with_sensitivity`, `with_errors`) stands beside it.
    """

    decomposition: str
    ranks: Sequence[Rank] = field(repr=False)
    costs: Costs = field(repr=False)
    singular_values: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)), repr=False)
    options: dict = field(default_factory=dict)
    kept: np.ndarray = field(default_factory=_no_numbers, repr=False)
    kept_tables: tuple[np.ndarray, ...] = field(default=(), repr=False)  # see Decomposition.kept_tables
    unfoldings: tuple[tuple[np.ndarray, int], ...] = field(default=(), repr=False)  # see Decomposition.unfoldings
    saves: tuple[str, ...] = WHAT  # what a lower rank can lower
    input_groups: int | None = None  # see Decomposition.input_groups
    ladder_follows_weights: bool = False  # see Decomposition.ladder_follows_weights
    made_up: bool = False  # the layer has no numbers, on the meta device: costs are right, what it keeps is not known
    sampled_ranks: tuple[Rank, ...] = ()  # rising; the layer alone was cut to each of them, to measure the network ...
    sampled_accuracy: np.ndarray = field(default_factory=_no_numbers, repr=False)  # ... relative to the last
    sensitivity: np.ndarray = field(default_factory=_no_numbers, repr=False)  # rise of the loss, expected
    errors: np.ndarray = field(default_factory=_no_numbers, repr=False)  # of the weight, as its factors reach them
    responses: np.ndarray = field(default_factory=_no_numbers, repr=False)  # errors of the responses, as reached

    def may_save(self, what: str) -> bool:
        """Whether a lower rank can lower this cost; time, where it lowers MACs."""
        return ("macs" if what == "latency" else what) in self.saves

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
        return of_rank[np.asarray(self.ranks, dtype=np.int64) - 1]


NO_OFFER = Offer("", (), Costs(np.zeros(0, np.int64), np.zeros(0, np.int64)))  # of a layer that cannot be decomposed
