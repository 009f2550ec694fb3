"""A table of one's own as a whole sweep and its report; what of a configuration a job is told apart by."""

from pathlib import Path

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.rank import Plan
from lowrank_exp.report.cli import main as report
from support.smoke import SMOKE

TABLE = """
title: Table 2
source: {paper: A. Author 2026}
columns: {FLOPs: {quantity: macs_ratio, unit: "%"}}
defaults:
  choose: {method: oneshot}
  smoke: {evaluation: {batch_size: 200}}
seeds: [0, 1]
rows:
  half:
    choose: {rank: uniform}
    set: {rank: {macs: 0.5}}
    published: {FLOPs: 51}
  energy:
    choose: {rank: energy}
    set: {rank: {macs: 0.4}}
    published: {FLOPs: 40}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "mine.yaml").write_text(TABLE)
    return tmp_path / "conf"


def results(outputs: Path) -> list[Result]:
    return [Result.read(path) for path in sorted(outputs.glob("*/*/result.json"))]


def test_a_table_of_ones_own_is_swept_and_reported_as_ours(command, conf, tmp_path, capsys):
    own = ("--config-dir", str(conf))
    assert command(*own, "experiment=mine", *SMOKE, "hydra.mode=RUN", "row=mine/half", "seed=0") == 0
    (first,) = results(tmp_path / "outputs")
    assert (first.experiment, first.row, first.seed, first.status) == ("mine", "half", 0, "ok")
    assert (first.departures, first.dense.name) == (["scale=smoke"], "initial")
    assert first.choices == {
        **{"data": "digits", "model": "lenet5", "method": "oneshot", "decomposition": "spatial_svd"},
        **{"rank": "uniform", "reconstruct": "auto", "scale": "smoke"},
    }
    assert (first.config["evaluation"]["batch_size"], first.config["rank"]["macs"]) == (200, 0.5)
    assert not {"training", "finetune", "pruning", "regularizer"} & set(first.config)
    plan = Plan.read(first.folder / "plan.yaml")
    lost = {layer.name: (layer.weight_error, layer.response_error) for layer in first.layers}
    assert lost == {name: (one.weight_error, one.response_error) for name, one in plan.layers.items()}
    assert all(0 < error < 1 for name, rank in plan.ranks.items() if rank is not None for error in lost[name])
    folder = str(tmp_path / "outputs" / "mine")
    assert report([folder, *own]) == 1
    said = capsys.readouterr().out
    assert "missing: half" not in said
    assert "missing: energy, seed 0: no result.json" in said  # all that a smoke run has

    assert command(*own, "experiment=mine", *SMOKE) == 0
    assert sorted((one.row, one.seed) for one in results(tmp_path / "outputs")) == [("energy", 0), ("half", 0)]
    assert capsys.readouterr().out.count("; from the store\n") == 1
    assert report([folder, *own]) == 0
    said = capsys.readouterr().out
    assert "Published: A. Author 2026, Table 2" in said
    assert f"{100 * first.beside_dense()['macs_ratio'] - 51:+.2f}" not in said
    assert "not compared: scale=smoke" in said


def test_a_mistake_in_a_table_names_its_file_and_row(command, conf, tmp_path, capsys):
    path = conf / "table" / "mine.yaml"
    path.write_text(TABLE.replace("{macs: 0.5}", "{mac: 0.5}"))
    arguments = ("--config-dir", str(conf), "experiment=mine", "hydra.mode=RUN", *SMOKE)
    assert command(*arguments, "row=mine/half") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "rank.mac is read by nobody. Did you mean rank.macs?" in said
    assert f"(set by rows.half of {path})" in said
    assert command(*arguments, "row=mine/energy", "+rank.mac=0.5") == 1
    assert "(set by" not in capsys.readouterr().err


def test_a_row_of_another_table_is_refused(command, conf, capsys):
    arguments = ("--config-dir", str(conf), "experiment=mine", "hydra.mode=RUN", *SMOKE)
    assert command(*arguments, "row=pufferfish/resnet18_dense") == 1
    assert "row=pufferfish/resnet18_dense with experiment=mine" in capsys.readouterr().err


def test_a_group_that_no_phase_uses_makes_no_other_job_and_that_is_said(command, tmp_path, capsys):
    few = ("method=train", *SMOKE)
    assert command(*few, "rank.macs=0.3") == 0
    assert "method train does not use rank: rank.macs=0.3 changes nothing" in capsys.readouterr().out
    (first,) = results(tmp_path / "outputs")
    assert first.choices == {
        **{"data": "digits", "model": "lenet5", "method": "train", "training": "default"},
        **{"regularizer": "none", "scale": "smoke"},
    }
    assert list(first.config["method"]["phases"]) == ["train"]
    assert command(*few, "rank=energy", "rank.macs=0.4", "method.phases.finetune.epochs=9") == 0
    said = capsys.readouterr().out
    assert "method train does not use rank: rank=energy rank.macs=0.4 changes nothing" in said
    assert "does not use method.phases.finetune: method.phases.finetune.epochs=9 changes nothing" in said
    assert "finished already; nothing is run again" in said
    assert results(tmp_path / "outputs") == [first]
    assert command(*few, "training.batch_size=32") == 0
    assert "does not use" not in capsys.readouterr().out
    assert len(results(tmp_path / "outputs")) == 2
