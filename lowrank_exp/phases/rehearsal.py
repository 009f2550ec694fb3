"""What a phase tells of itself without being run: how long it takes, what it leaves, what is to be seen of its plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lowrank_exp.edits import edits_of
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.shapes import copy_that_runs, finite
from lowrank_exp.rank import Plan
from lowrank_exp.rank.reachable import Reach
from lowrank_exp.surgery import replay_

Parts = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Prospect:
    """What is to be seen of a phase's plan before the run.

    `plan`: None where it is not known; `remains`: the plans by whose layers it is told what remains of the dense
    network, by name; `budgets`: those that can be met, see `rank.reachable`, over `over`.
    """

    plan: Plan | None = None
    remains: Mapping[str, Plan] = field(default_factory=dict)
    budgets: Mapping[str, Reach] = field(default_factory=dict)
    over: str = "all"

    @classmethod
    def of(cls, plan: Plan) -> "Prospect":
        """Of a plan over all layers."""
        return cls(plan, {"all layers": plan})


@dataclass(frozen=True)
class Rehearsal:
    """What a phase would do, as nearly as can be told.

    `network`: as the phase would leave it, its shapes exact if they can be known; `parts`: what takes time, each a
    description and its seconds; `unknown`: what comes on top and is not estimated; `same_weights`: whether the run
    would leave these weights too, if it began with those given; `epochs`: how many it would train; `prospect`: of its
    plan; `notes`: sentences to print.
    """

    network: nn.Module
    parts: Parts = ()
    unknown: str = ""
    same_weights: bool = True
    epochs: int = 0
    prospect: Prospect | None = None
    notes: Sequence[str] = ()


def walked(network: nn.Module, example: Tensor, walk_: Callable[[nn.Module, Tensor], None]) -> nn.Module:
    """A copy of `network` with the shapes that `walk_` leaves, as nearly as can be told; new weights are finite."""
    shapes, taken, _ = copy_that_runs(network, [example])
    walk_(shapes, taken)
    network = copy_network(network)
    with finite(network):
        replay_(network, edits_of(shapes)[len(edits_of(network)) :])
    return network
