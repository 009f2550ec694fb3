"""The oracle in a training that prunes: a file for every ranking, going on within one, and the images it needs."""

import importlib
import json
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp import models
from lowrank_exp.pruning.criteria import Oracle
from lowrank_exp.pruning.schedules import AGP, SFP, Iterative, Moment, OneShot, Remove, RePr, View
from lowrank_exp.training import Pruning
from support.fits import fit_by_options_
from support.method_jobs import JOB, job

FILTERS = 3 * 6
MEASURING = importlib.import_module("lowrank_exp.pruning.criteria.oracle")


class KilledError(Exception):
    pass


def images(count, seed):
    draw = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=draw), torch.randint(0, 4, (count,), generator=draw))


def fit(folder):
    torch.manual_seed(0)
    network = models.vanilla_cnn(convolutions=3, filters=6, in_channels=3, input_size=8, num_classes=4)
    schedule = RePr(S1=1, S2=1, N=2, criterion=Oracle(absolute=False))
    pruning = Pruning(schedule, (3, 8, 8), held_out=DataLoader(images(40, 2), batch_size=16), folder=folder)
    fit_by_options_(
        network, DataLoader(images(48, 1), batch_size=16, shuffle=True), None, epochs=5,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), schedule=None, seed=3,
        checkpoint=folder / "last.ckpt", device="cpu", pruning=pruning, progress=False,
    )  # fmt: skip
    return network.state_dict()


def lines(folder):
    return {path.name: path.read_text().splitlines() for path in sorted(folder.glob("oracle-*.jsonl"))}


def test_killed_in_the_middle_of_a_ranking_it_goes_on(tmp_path, monkeypatch):
    alone = fit(tmp_path / "alone")
    expected = lines(tmp_path / "alone")
    assert [name.split("-")[1] for name in expected] == ["0", "1"]
    assert [len(found) for found in expected.values()] == [1 + FILTERS] * 2
    measured = []

    def counted(network, silenced, f, score, limit, _measure=MEASURING._without):
        if len(measured) == limit:
            raise KilledError
        measured.append(f)
        return _measure(network, silenced, f, score)

    with monkeypatch.context() as patched:
        patched.setattr(MEASURING, "_without", partial(counted, limit=FILTERS + 7))
        with pytest.raises(KilledError):
            fit(tmp_path / "killed")
    assert [len(found) for found in lines(tmp_path / "killed").values()] == [1 + FILTERS, 1 + 7]
    measured.clear()
    monkeypatch.setattr(MEASURING, "_without", partial(counted, limit=None))
    again = fit(tmp_path / "killed")
    assert len(measured) == FILTERS - 7
    assert lines(tmp_path / "killed") == expected
    assert all(torch.equal(value, again[name]) for name, value in alone.items())


CRITERION = Oracle(absolute=False)
SCHEDULES = {
    "agp": (AGP(share=0.5, every=1, criterion=CRITERION), Moment(1, 2, 2)),
    "iterative": (Iterative(macs=0.5, filters=3, form="none", criterion=CRITERION), Moment(0, 2, 2, True)),
    "one_shot": (OneShot(share=0.2, criterion=CRITERION), Moment(0, 2, 2, True)),
    "repr": (RePr(S1=1, S2=1, N=1, criterion=CRITERION), Moment(2, 2, 4, True)),
    "sfp": (SFP(share=0.2, criterion=CRITERION), Moment(2, 2, 2)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_takes_it(name, tmp_path):
    torch.manual_seed(0)
    network = models.vanilla_cnn(convolutions=2, filters=5, in_channels=3, input_size=8, num_classes=4)
    schedule, moment = SCHEDULES[name]
    view = View.of(network, (3, 8, 8))
    with pytest.raises(ValueError, match="Oracle looks at images: give batches"):
        schedule.due(moment, view)
    view.held_out, view.folder, view.rankings = DataLoader(images(40, 2), batch_size=16), tmp_path, 4
    action = schedule.due(moment, view)
    assert [path.split("-")[1] for path in lines(tmp_path)] == ["4"]
    (page,) = lines(tmp_path).values()
    losses = {(line["layer"], line["filter"]): line["loss"] for line in map(json.loads, page[1:])}
    layers = view.layers
    if isinstance(action, Remove):
        gone = {layer: sorted(set(range(5)) - set(action.keep.get(layer, range(5)))) for layer in layers}
    else:
        gone = {layer: list(action.filters.get(layer, ())) for layer in layers}
    by_loss = {layer: sorted(range(5), key=lambda f, layer=layer: losses[layer, f]) for layer in layers}
    assert gone == {layer: sorted(by_loss[layer][: len(gone[layer])]) for layer in layers}
    assert sum(map(len, gone.values())) == {"one_shot": 2, "sfp": 2}.get(name, 3 if name != "agp" else 4)


def test_a_schedule_of_the_configuration_takes_it(command, tmp_path):
    options = ("method=prune", "pruning=oneshot", "pruning/criterion=oracle", "method.phases.prune.images=50")
    assert command(*JOB, *options, "method.order=[prune,remove]", "finetune.epochs=0") == 0
    result, _, _ = job(tmp_path / "outputs")
    kept = {layer.name: layer.channels_after for layer in result.layers}
    assert (kept["conv1"], kept["conv2"]) == (5, 12)
    (path,) = (tmp_path / "outputs" / "store").rglob("oracle-0-*.jsonl")
    heading, *losses = map(json.loads, path.read_text().splitlines())
    assert (heading["at"], heading["layers"]) == ("relu", {"conv1": 6, "conv2": 16})
    assert [(line["layer"], line["filter"]) for line in losses[5:8]] == [("conv1", 5), ("conv2", 0), ("conv2", 1)]


def test_without_validation_images_it_says_so(command, capfd):
    assert command(*JOB, "method=prune", "pruning/criterion=oracle", "data.validation=0") == 1
    told = "phase prune: the oracle measures losses on validation images, and there are none: set data.validation"
    assert told in capfd.readouterr().err
