"""Small jobs of a method, what they leave behind, and that they go on alike after a kill."""

import pytest
import torch

from lowrank_exp.artifact import load
from lowrank_exp.files.results import Result
from lowrank_exp.job.loggers import Log
from lowrank_exp.job.outcomes import OutcomeStore
from lowrank_exp.reconstruct.layer_fit import LayerFit
from support.smoke import SMOKE

JOB = (*SMOKE, "data.test=0.8")  # few images to train on


class KilledError(BaseException):
    """Ends a job as a kill would: nothing writes a result."""


def job(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    result = Result.read(path)
    store = OutcomeStore(outputs / "store", print)
    return result, {phase.name: store.read(phase.name, phase.key).history for phase in result.phases}, path.parent


def same_networks(one, other):
    first, second = (load(folder / "model.pt").state_dict() for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def killed_at(monkeypatch, epoch):
    """From here on the job dies when it logs its `epoch`-th epoch, counted over all phases from 1."""
    logged = Log.epoch

    def dies(self, phase, metrics):
        logged(self, phase, metrics)
        if self.step == epoch:
            raise KilledError

    monkeypatch.setattr(Log, "epoch", dies)


def fitted_layers(monkeypatch, killed_at=None):
    """The names of layers that are fitted to data from here on, in a list that grows; at one of them the fit dies."""
    names, chain = [], LayerFit.chain

    def noted(self):
        if self.name == killed_at:
            raise KilledError
        names.append(self.name)
        return chain(self)

    monkeypatch.setattr(LayerFit, "chain", noted)
    return names


def goes_on_alike(command, options, folder, monkeypatch, epochs):
    """Killed at each of `epochs`, the job ends with the bits of that in `alone`."""
    alone, expected, there = job(folder / "alone")
    for epoch in epochs:
        outputs = folder / f"killed-{epoch}"
        with monkeypatch.context() as patched:
            killed_at(patched, epoch)
            with pytest.raises(KilledError):
                command(*options, outputs=outputs)
        assert not list(outputs.glob("runs/*/result.json"))
        assert command(*options, outputs=outputs) == 0
        again, found, here = job(outputs)
        same_networks(there, here)
        assert [phase.accuracy for phase in again.phases] == [phase.accuracy for phase in alone.phases]
        for name, lines in expected.items():
            assert [{**line, "seconds": 0} for line in found[name]] == [{**line, "seconds": 0} for line in lines]
