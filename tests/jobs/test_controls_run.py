"""A job with all of its controls: what each trains and for how long, what they share, and what cannot be made."""

import pytest
import torch

from lowrank_exp.artifact import load
from lowrank_exp.edits import edits_of
from lowrank_exp.files.results import Result
from lowrank_exp.network.cost import network_cost
from support.smoke import SMOKE

JOB = (*SMOKE, "data.test=0.8", "training.epochs=2", "finetune.epochs=1", "reconstruct=none", "rank.metric=error")
CONTROLS = ["dense_by_width", "dense_trained_on", "from_scratch", "shuffled_ranks"]


def results(outputs):
    found = [Result.read(path) for path in outputs.glob("runs/*/result.json")]
    return {one.control.get("name", "row"): one for one in found}


def test_controls_are_trained_for_the_epochs_of_their_row_and_shared_by_rows(command, tmp_path, capsys):
    assert command(*JOB, "controls=true") == 0
    found = results(tmp_path / "outputs")
    assert sorted(found) == sorted(["row", *CONTROLS])
    row = found["row"]
    for name in CONTROLS:
        one = found[name]
        assert (one.status, one.control["of"], one.seed) == ("ok", row.fingerprint, 0)
        if name != "shuffled_ranks":
            assert [phase.key for phase in one.phases[:-1]] == [phase.key for phase in row.phases]
    epochs = {name: found[name].phases[-1].values.get("epochs") for name in CONTROLS}
    assert epochs == {"dense_by_width": 3, "dense_trained_on": 1, "from_scratch": 3, "shuffled_ranks": None}
    macs = {name: one.phases[-1].macs for name, one in found.items()}
    assert macs["dense_trained_on"] == row.phases[0].macs
    assert macs["from_scratch"] == macs["row"]
    assert macs["shuffled_ranks"] == pytest.approx(macs["row"], rel=0.021)
    assert macs["dense_by_width"] == pytest.approx(macs["row"], rel=0.05)
    networks = {name: load(one.folder / "model.pt") for name, one in found.items()}
    assert edits_of(networks["from_scratch"]) == edits_of(networks["row"])
    assert edits_of(networks["dense_trained_on"]) == []
    example = torch.zeros(1, 1, 32, 32)
    assert network_cost(networks["dense_by_width"], example).macs == macs["dense_by_width"]
    assert {one.layers[0].reason for one in (found["row"], found["from_scratch"])} == {"chosen by knapsack"}
    assert found["dense_trained_on"].layers[0].reason == "no phase decomposes it"
    assert not (found["dense_trained_on"].folder / "plan.yaml").exists()

    # Another budget has the same dense network: what it is trained on to is stored.
    kept = sorted((tmp_path / "outputs" / "store" / "scores" / "controls").glob("*/last.ckpt"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) == 3
    assert command(*JOB, "control=dense_trained_on", "rank.macs=0.6") == 0
    assert sorted((tmp_path / "outputs" / "store" / "scores" / "controls").glob("*/last.ckpt")) == kept
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    again = [
        one
        for one in map(Result.read, tmp_path.glob("outputs/runs/*/result.json"))
        if one.config["rank"]["macs"] == 0.6
    ]
    assert [one.phases[-1].accuracy for one in again] == [found["dense_trained_on"].phases[-1].accuracy]


def test_controls_that_cannot_be_made_say_why_and_end_well(command, tmp_path, capsys):
    assert command(*JOB, "method=train", "control=shuffled_ranks") == 0
    assert command(*JOB, "method=train", "control=dense_trained_on") == 0
    assert command(*JOB, "method=train", "control=from_scratch", "method.phases.from_scratch.epochs=2") == 0
    found = results(tmp_path / "outputs")
    assert {name: one.status for name, one in found.items()} == {
        "shuffled_ranks": "void",
        "dense_trained_on": "void",
        "from_scratch": "void",
    }
    assert found["shuffled_ranks"].error.startswith("no phase of this row chooses ranks by the group rank")
    assert "no phase of this row trains" in found["dense_trained_on"].error
    assert "method.phases.dense_trained_on.epochs=<number>" in found["dense_trained_on"].error
    assert found["from_scratch"].error.startswith("no layer of this row's network was changed")
    assert "control from_scratch is void: no layer" in capsys.readouterr().out
