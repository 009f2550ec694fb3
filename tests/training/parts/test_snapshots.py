"""Snapshots: the weights at fractions of a training, in files beside its checkpoint."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import Recipe, fit_
from lowrank_exp.training.parts.snapshots import Kept, snapshot


class KilledError(Exception):
    pass


def fit(checkpoint, at, stop_after=None, epochs=5):
    draw = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(12, 3, generator=draw), torch.randint(0, 2, (12,), generator=draw))
    torch.manual_seed(0)
    network, weights = nn.Linear(3, 2), []

    def on_epoch(metrics):
        weights.append(network.weight.detach().clone())
        if metrics["epoch"] + 1 == stop_after:
            raise KilledError

    before = network.weight.detach().clone()
    recipe = Recipe(epochs=epochs, optimizer=partial(torch.optim.SGD, lr=0.1), snapshots=at)
    options = {"seed": 0, "checkpoint": checkpoint, "device": "cpu", "progress": False}
    fit_(network, DataLoader(data, 4), None, recipe, on_epoch=on_epoch, **options)
    return [before, *weights]


def test_weights_are_those_after_so_many_whole_epochs(tmp_path):
    weights = fit(tmp_path / "last.ckpt", [0, 0.5, 0.6, 1])
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [f"epoch-{n}.pt" for n in (0, 2, 3, 5)]
    for epochs in (0, 2, 3, 5):
        state = torch.load(snapshot(tmp_path, epochs), weights_only=True)
        assert list(state) == ["weight", "bias"]
        assert torch.equal(state["weight"], weights[epochs])


def test_a_fit_that_goes_on_keeps_the_snapshots_that_it_has(tmp_path):
    with pytest.raises(KilledError):
        fit(tmp_path / "last.ckpt", [0, 0.4, 1], stop_after=3)
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert sorted(first) == ["epoch-0.pt", "epoch-2.pt"]
    fit(tmp_path / "last.ckpt", [0, 0.4, 1])
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert sorted(now) == ["epoch-0.pt", "epoch-2.pt", "epoch-5.pt"]
    assert {name: now[name] for name in first} == first


def test_without_a_checkpoint_there_is_no_place_for_them():
    with pytest.raises(ValueError, match="snapshots lie beside the checkpoint, and there is none"):
        fit(None, [0.5])


def test_points_outside_of_the_training_are_refused():
    for at in ([1.5], [-0.1], [True], ["half"]):
        with pytest.raises(ValueError, match="snapshots must be fractions of the epochs"):
            Kept(at)
