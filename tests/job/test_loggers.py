"""Runs as the loggers leave them on disk."""

import csv
import json
import re

import pytest

from lowrank_exp.files.results import Result, deciding, digest, seedless
from lowrank_exp.job import loggers
from lowrank_exp.job.loggers import Identity, Log
from lowrank_exp.phases.phase import Done
from lowrank_exp.phases.small import Evaluate
from support.smoke import SMOKE
from support.wandb_files import wandb_run

RUN = tuple(o for o in SMOKE if not o.startswith("logger"))


@pytest.mark.slow
def test_two_jobs_in_one_process_give_two_offline_runs(command, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert command("-m", *RUN, "logger=wandb", "seed=0,1", "tags=[paper]") == 0
    folders = [path.parent for path in (tmp_path / "outputs/runs").glob("*/result.json")]
    runs = [wandb_run(folder) for folder in folders]
    assert {run["run"].run_id for run in runs} == {folder.name for folder in folders}
    assert len(folders) == 2
    assert len({run["run"].run_group for run in runs}) == 1
    for run, folder in zip(runs, folders, strict=True):
        result = Result.read(folder / "result.json")
        group = f"decompose-{digest(seedless(deciding(result.config)))[:6]}"  # the same for both seeds
        assert run["run"].display_name == f"{group}-s{result.seed}"
        assert (run["run"].run_group, run["run"].job_type) == (group, "decompose")
        assert set(run["run"].tags) == {"paper", "decompose"}
        assert {"train/train_loss", "train/val_accuracy", "finetune/val_loss", "layers", "classes"} <= run["history"]
        assert {"train.accuracy", "finetune.accuracy", "factorize.macs"} <= run["summary"].keys()
        told = json.loads(run["summary"]["warnings"])
        assert (run["summary"]["status"], told) == ('"ok"', "\n".join(result.told()))
        assert run["exits"] == [0]
        configuration = {item.key for item in run["run"].config.update}
        assert {"rank", "model", "seed"} <= configuration


def test_left_over_of_a_killed_run_is_replaced_and_a_failed_run_is_closed(command, tmp_path, monkeypatch):
    assert command(*RUN, "logger=none") == 0
    (folder,) = (path.parent for path in (tmp_path / "outputs/runs").glob("*/result.json"))
    left_over = folder / f"wandb/offline-run-20200101_000000-{folder.name}"
    left_over.mkdir(parents=True)
    (left_over / "debris").touch()
    (folder / "result.json").unlink()

    def broken(*_, **__):
        raise RuntimeError("broken on the way")

    with monkeypatch.context() as patch:
        patch.setattr("lowrank_exp.job.network_job.layer_results", broken)
        assert command(*RUN, "logger=wandb") == 1
    assert not left_over.exists()
    assert wandb_run(folder)["exits"] == [1]
    assert command(*RUN, "logger=wandb") == 0
    run = wandb_run(folder)  # one folder again
    assert run["exits"] == [0]
    assert {"train/train_loss", "finetune/val_loss"} <= run["history"]  # curves of stored phases are there too


def test_csv(command, tmp_path):
    assert command(*RUN, "logger=csv") == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/csv/metrics.csv")
    rows = list(csv.DictReader(path.open()))
    result = Result.read(path.parents[1] / "result.json")
    logged = {key: float(row[key]) for row in rows for key in row if row[key]}
    assert logged["finetune.accuracy"] == result.phases[-1].accuracy
    assert 0 < logged["train/train_loss"] < 5


def test_a_column_of_a_csv_is_no_formula(tmp_path):
    identity = Identity(tmp_path, "0" * 16, "a", None, (), {})
    log = Log(loggers.csv(identity))
    log.epoch("=1+1", {"train_loss": 0.5})
    log.finish(failed=False)
    (path,) = tmp_path.rglob("metrics.csv")
    assert set(next(csv.reader(path.open()))) == {"'=1+1/train_loss", "step"}


def test_tensorboard(command, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command(*RUN, "logger=tensorboard") == 0
    (folder,) = (tmp_path / "outputs/runs").glob("*/tensorboard")
    events = EventAccumulator(str(folder))
    events.Reload()
    result = Result.read(folder.parent / "result.json")
    assert abs(events.Scalars("train.accuracy")[0].value - result.phases[0].accuracy) < 1e-6


def test_warnings_stand_in_every_logger_and_leave_the_status(command, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(Evaluate, "run_", lambda self, network, setting: Done(warnings=["at chance"]))
    for logger in ("wandb", "csv", "tensorboard"):
        assert command(*RUN, "method=evaluate", f"logger={logger}", outputs=tmp_path / logger) == 0
    folders = {path.parts[-4]: path.parent for path in tmp_path.glob("*/runs/*/result.json")}
    for folder in folders.values():
        result = Result.read(folder / "result.json")
        told = result.told()
        assert (result.status, told[0]) == ("ok", "evaluate: at chance")
        assert ["Nothing has trained this network" in line for line in told] == [False, True]
    run = wandb_run(folders["wandb"])
    assert (run["summary"]["status"], json.loads(run["summary"]["warnings"])) == ('"ok"', "\n".join(told))
    assert run["tags"] == {"evaluate", "warnings"}
    last = list(csv.DictReader((folders["csv"] / "csv/metrics.csv").open()))[-1]
    assert (last["warnings"], last["missed"]) == ("2.0", "0.0")
    events = EventAccumulator(str(folders["tensorboard"] / "tensorboard"))
    events.Reload()
    assert events.Scalars("warnings")[0].value == 2
    (text,) = events.Tensors("warnings/text_summary")[0].tensor_proto.string_val
    assert text.decode() == "\n\n".join(told)


def test_runs_of_a_row_have_the_name_of_its_table_and_budgets_are_groups_of_their_own():
    labels = {"method": "oneshot", "experiment": "enc_table3", "row": "svd"}
    half = {"seed": 0, "data": {"seed": 0}, "rank": {"macs": 0.5}}
    name = loggers.group_of(half, labels)
    assert re.fullmatch("enc_table3/svd-[0-9a-f]{6}", name)
    assert loggers.group_of(half | {"seed": 1, "data": {"seed": 1}, "device": "cpu"}, labels) == name
    assert loggers.group_of(half | {"rank": {"macs": 0.25}}, labels) != name
    assert loggers.group_of(half, labels | {"experiment": None, "row": None}) == name.replace(
        "enc_table3/svd", "oneshot"
    )


def test_a_name_and_a_group_of_ones_own(tmp_path):
    identity = Identity(tmp_path, "fedcba9876543210", "svd-s0", "svd", [], {}, "oneshot")
    log = Log.open(lambda: loggers.wandb(identity, "mine", name="first", group="trials"), print)
    log.epoch("finetune", {"val_accuracy": 0.5})
    log.finish(False)
    run = wandb_run(tmp_path)["run"]
    assert (run.display_name, run.run_group, run.job_type) == ("first", "trials", "oneshot")


def test_a_pruned_job_is_no_failure(tmp_path):
    identity = Identity(tmp_path, "0123456789abcdef", "svd-s0", None, ["svd"], {})
    log = Log.open(lambda: loggers.wandb(identity, "search"), print)
    log.epoch("finetune", {"val_accuracy": 0.1})
    log.pruned()
    log.finish(False)
    run = wandb_run(tmp_path)
    assert (run["summary"]["status"], run["tags"], run["exits"]) == ('"pruned"', {"svd", "pruned"}, [0])
    assert log.warnings == []
