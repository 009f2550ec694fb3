"""What a rehearsal of `Factorize` counts and times: rank sets that are scored, factors that are computed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.shapes import finite
from lowrank_exp.rank import Choice, LayerProfile, Plan
from lowrank_exp.surgery import factorize_, replay_to_plan_
from lowrank_exp.training.probes.pace import SECONDS


class CountedScores:
    """Stands in for a score: every rank set gets 1, and different ones are counted."""

    def __init__(self, layers: Mapping[str, LayerProfile]) -> None:
        self.layers = layers
        self.asked: set[frozenset] = set()

    def __call__(self, ranks: Mapping[str, Rank | Choice | None]) -> float:
        choices = {
            name: rank if isinstance(rank, Choice) else Choice(self.layers[name], rank)
            for name, rank in ranks.items()
            if rank is not None
        }
        self.asked.add(frozenset((name, choice.profile.decomposition, choice.rank) for name, choice in choices.items()))
        return 1.0


def factorize_for_a_while_(network: nn.Module, plan: Plan, svds: SVDStore) -> tuple[float, bool]:
    """Replace the layers of a plan, in place, the least work first; what is left after a while gets shapes only.

    Returns:
        The seconds that all of them would take, and whether all of them were factorized.
    """
    planned = {name: layer for name, layer in plan.layers.items() if layer.rank is not None}
    work = {name: layer.weights_before * _highest(layer.rank) for name, layer in planned.items()}
    done, seconds = 0, stopwatch()
    rest = sorted(work, key=work.__getitem__)
    while rest and seconds() < SECONDS:
        name = rest.pop(0)
        factorize_(network, replace(plan, layers={name: plan.layers[name]}), store=svds)
        done += work[name]
    seconds = seconds()
    if rest:
        with finite(network):
            replay_to_plan_(network, Plan({name: plan.layers[name] for name in rest}))
    return seconds * sum(work.values()) / done if done else 0.0, not rest


def _highest(rank: Any) -> int:
    return max(rank) if isinstance(rank, tuple) else rank
