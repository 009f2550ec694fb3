"""Times of rankings of filters, by a clock that only a network moves."""

import pytest
import torch
from torch import nn

from lowrank_exp.pruning.criteria import L1, ActivationMean, Oracle, Taylor, WeightedSum
from lowrank_exp.training.probes import ranking_pace
from lowrank_exp.training.probes.ranking_pace import ranking_seconds


class Slow(nn.Sequential):
    """Takes a 64th of a second per image by the clock."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        self.now = 0.0

    def forward(self, images):
        self.now += len(images) / 64
        return super().forward(images)


@pytest.fixture
def network(monkeypatch):
    slow = Slow()

    def stopwatch():
        began = slow.now
        return lambda: slow.now - began

    monkeypatch.setattr(ranking_pace, "stopwatch", stopwatch)
    return slow


BATCHES = [(torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))] * 24  # an eighth of a second each
SUM = WeightedSum({"a": Taylor(), "b": ActivationMean(), "c": L1()}, {"a": 1.0, "b": 1.0, "c": 1.0})


@pytest.mark.parametrize(
    ("criterion", "passes", "batches"),
    [(L1(), 0, 0), (Taylor(), 1, 9), (SUM, 2, 18), (Oracle(), 1 + 3 + 4, 9)],  # one, then what a second allows for
)
def test_a_ranking_takes_its_passes_over_all_batches(network, criterion, passes, batches):
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seconds = ranking_seconds(network, ["0", "2"], criterion, BATCHES, len(BATCHES), "cpu")
    assert seconds == passes * 3
    assert network.now == batches / 8
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_a_few_batches_are_all_looked_at(network):
    assert ranking_seconds(network, ["2"], Taylor(), BATCHES[:4], 4, "cpu") == 4 / 8
    assert network.now == 5 / 8
