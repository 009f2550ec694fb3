"""How long a ranking of filters takes here: a few batches, timed and scaled up. Nothing is changed."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.cost import out_channels
from lowrank_exp.network.modes import evaluating
from lowrank_exp.pruning.criteria import DataCriterion, Oracle, WeightCriterion, WeightedSum, filter_scores
from lowrank_exp.training.probes.pace import SECONDS, FirstBatches

Batches = Iterable[tuple[Tensor, Tensor]]


def ranking_seconds(
    network: nn.Module,
    layers: Sequence[str],
    criterion: WeightCriterion | DataCriterion | WeightedSum | Oracle,
    batches: Batches,
    count: int,
    device: str,
) -> float:
    """Seconds that `filter_scores` takes with these arguments.

    Args:
        network: on the device.
        layers: whose filters are scored, by name.
        criterion: of `lowrank_exp.pruning.criteria`; of the oracle a forward pass is timed, of which it takes one for
            every filter and one for the whole network.
        batches: images and labels, gone through as often as asked for.
        count: how many batches there are.
        device: where the network is.
    """
    if isinstance(criterion, Oracle):
        passes = 1 + filters(network, layers)
        return passes * _scaled(lambda some: _pass_over(network, some, device), batches, count, in_memory=True)
    parts = criterion.criteria.values() if isinstance(criterion, WeightedSum) else [criterion]
    looks = [part for part in parts if isinstance(part, DataCriterion)]
    others = [part for part in parts if not isinstance(part, DataCriterion)]
    seconds = 0.0
    for part in others:
        seconds += _timed(lambda some, part=part: filter_scores(network, layers, part, some), FirstBatches(batches, 1))
    for part in looks:
        seconds += _scaled(lambda some, part=part: filter_scores(network, layers, part, some), batches, count)
    return seconds


def filters(network: nn.Module, layers: Sequence[str]) -> int:
    """How many filters these layers have."""
    return sum(out_channels(network.get_submodule(name)) for name in layers)


def _scaled(run: Callable[[Batches], object], batches: Batches, count: int, in_memory: bool = False) -> float:
    """Seconds that `run` takes with all batches, by its time with one, and then with some; `in_memory`: held there."""

    def first(number: int) -> Batches:
        return list(FirstBatches(batches, number)) if in_memory else FirstBatches(batches, number)

    seconds, some = _timed(run, first(1)), 1
    if seconds < SECONDS / 2:
        some = max(1, min(count, int(SECONDS / 2 / max(seconds, 1e-4))))
        seconds = _timed(run, first(some))
    return seconds * count / some


@torch.no_grad()
def _pass_over(network: nn.Module, batches: Batches, device: str) -> None:
    with evaluating(network):
        for images, _ in batches:
            network(images.to(device))


def _timed(run: Callable[[Batches], object], batches: Batches) -> float:
    seconds = stopwatch()
    run(batches)
    return seconds()
