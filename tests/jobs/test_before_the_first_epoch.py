"""What a job needs at its end is tried before it trains; and what fails beside it does not take it along."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from lowrank_exp import measure
from lowrank_exp.files.results import Result
from lowrank_exp.files.wandb_run import HOMES, stay_below
from lowrank_exp.job import preflight
from lowrank_exp.job.loggers import Log
from lowrank_exp.job.outcomes import OutcomeStore, check_name
from lowrank_exp.job.phase_keys import by_content
from support.smoke import SMOKE

TRAIN = (*SMOKE, "method=train")


def only_result(outputs: Path) -> Result:
    (path,) = outputs.glob("*/*/result.json")
    return Result.read(path)


def unwritable_below(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be made below a folder, also by those whom permissions do not hold back."""
    opened = os.open

    def refuse(path, flags, *rest, **named):
        if flags & os.O_CREAT and Path(os.fsdecode(path)).is_relative_to(root):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(
        "lowrank_exp.job.preflight.unwritable", lambda folder: "Read-only" if folder.is_relative_to(root) else None
    )
    monkeypatch.setattr("lowrank_exp.job.run.unwritable", lambda folder: preflight.unwritable(folder))
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(root))


def test_a_finished_job_answers_from_a_folder_that_takes_no_file(command, tmp_path, monkeypatch, capsys):
    assert command(*TRAIN) == 0
    unwritable_below(tmp_path / "outputs", monkeypatch)
    shutil.rmtree(next((tmp_path / "outputs").glob("runs/*/.hydra")))
    capsys.readouterr()
    assert command(*TRAIN) == 0
    assert "finished already; nothing is run again" in capsys.readouterr().out


def test_folders_are_tried_before_training(command, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").touch()
    assert command(*TRAIN, f"paths.store={tmp_path / 'file/store'}") == 1
    said = capfd.readouterr().err
    assert f"paths.store is {tmp_path / 'file/store'}, where no file can be written" in said
    unwritable_below(tmp_path / "outputs", monkeypatch)
    (tmp_path / "outputs").mkdir(exist_ok=True)
    assert command(*TRAIN) == 1
    assert "where no file can be written (Read-only)" in capfd.readouterr().err
    assert not list((tmp_path / "outputs").glob("store/*/last.ckpt"))


def test_room_for_a_checkpoint_is_looked_for(command, tmp_path, monkeypatch, capfd):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: usage(1e9, 1e9, 3 * 246_824 - 1))
    assert command(*TRAIN) == 1  # LeNet-5 has 61,706 numbers of four bytes
    assert "has room for 0.7 MB, and a checkpoint of this network needs up to 0.7 MB" in capfd.readouterr().err
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: usage(1e9, 1e9, 3 * 246_824))
    assert command(*TRAIN) == 0


def test_checkpoints_do_not_go_by_way_of_the_folder_for_temporary_files(command, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    assert command(*TRAIN) == 0
    assert only_result(tmp_path / "outputs").status == "ok"


class Failing:
    """A logger that fails at one of its methods."""

    def __init__(self, at: str) -> None:
        self.at = at

    def log_metrics(self, values: dict, step: int) -> None:
        self._fail("log_metrics")

    def finalize(self, status: str) -> None:
        self._fail("finalize")

    def _fail(self, name: str) -> None:
        if name == self.at:
            raise OSError(28, "No space left on device")


def failing(identity, at: str) -> Failing:
    if at == "open":
        raise RuntimeError("no server")
    return Failing(at)


@pytest.mark.parametrize("at", ["open", "log_metrics", "finalize"])
def test_a_logger_that_fails_is_a_warning(command, tmp_path, capsys, monkeypatch, at):
    monkeypatch.setattr("lowrank_exp.job.loggers.csv", functools.partial(failing, at=at))
    assert command(*(o for o in TRAIN if not o.startswith("logger")), "logger=csv") == 0
    result = only_result(tmp_path / "outputs")
    (warning,) = result.warnings
    assert (result.status, "the logger has failed, nothing more is logged" in warning) == ("ok", True)
    assert ("no server" if at == "open" else "No space left on device") in warning
    assert capsys.readouterr().out.count(warning) == 2  # as it happens, and at the end


def test_an_unknown_option_of_a_logger_is_a_mistake():
    def open_():
        raise ValueError("logger.mode=x is not known")

    with pytest.raises(ValueError, match=r"logger\.mode"):
        Log.open(open_, print)


def test_wandb_stays_in_the_job_where_home_takes_no_file(tmp_path, monkeypatch):
    for variable in HOMES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", "kept")
    stay_below(tmp_path / "job")
    assert [os.environ.get(variable) for variable in HOMES] == [None, "kept", None]
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    stay_below(tmp_path / "job")
    assert [os.environ.get(variable) for variable in HOMES] == [str(tmp_path / "job"), "kept", str(tmp_path / "job")]
    for variable in HOMES:
        monkeypatch.delenv(variable)


@pytest.mark.slow
def test_an_encoding_without_lines_and_accents_ends_no_job(tmp_path):
    """`--help` has its defaults in a table of lines; a job has names of any kind."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "OMP_NUM_THREADS": "1"}
    arguments = [*TRAIN, f"paths.outputs='{tmp_path / 'größe'}'"]
    run = subprocess.run(
        [sys.executable, "-m", "lowrank_exp.cli", *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "gr\\xf6\\xdfe" in run.stdout
    assert only_result(tmp_path / "größe").environment["threads"] == 1  # threads: null is that of OMP_NUM_THREADS


def test_the_store_stays_where_the_command_was_given(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*TRAIN, "hydra.job.chdir=true", outputs=Path("here")) == 0
    assert Path.cwd() == tmp_path
    assert [path.parts[0] for path in tmp_path.rglob("network.pt") for path in [path.relative_to(tmp_path)]] == ["here"]
    assert len(list((tmp_path / "here/store").glob("train-*/network.pt"))) == 1


@pytest.mark.parametrize("path", ["paths.cache=null", "paths.store=", "paths.outputs=null", "paths.outputs='  '"])
def test_paths_are_folders(tmp_path, monkeypatch, capsys, path):
    from lowrank_exp.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lowrank-exp", *TRAIN, path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert f"{path.partition('=')[0]}=" in str(ended.value)
    assert "is not a folder: name one" in str(ended.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["initial", "", "..", "a/b", "a\\b", " ", "a\nb", "x" * 101, 3])
def test_names_of_phases_that_break_files_are_refused(name):
    with pytest.raises(ValueError, match=r"no phase may be called 'initial'|cannot be the name of a phase"):
        check_name(name)


def test_a_job_with_a_phase_called_initial_is_refused(command, capfd):
    phases = "{initial: {_target_: lowrank_exp.phases.Evaluate}}"
    assert command(*SMOKE, "method.order=[initial]", f"+method.phases={phases}") == 1
    assert "no phase may be called 'initial'" in capfd.readouterr().err


def test_locks_are_those_of_one_phase(tmp_path):
    store = OutcomeStore(tmp_path, print)
    for name in ("v1.5", "v1.6", "train"):
        check_name(name)
        with store.writing(name, "0123456789abcdef", print):
            pass
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == [
        f"{name}-0123456789abcdef.lock" for name in ("train", "v1.5", "v1.6")
    ]


def test_files_that_a_phase_names_count_by_their_content(tmp_path):
    def key(path: Path) -> str:
        nested = {"truncate": {"rank": {"ranks": str(path)}}, "parts": [{"mask": str(path)}], "epochs": 3}
        return json.dumps(by_content(nested))

    one, same, other = (tmp_path / f"{name}.yaml" for name in ("one", "same", "other"))
    for path, text in ((one, "a"), (same, "a"), (other, "b")):
        path.write_text(text)
    assert key(one) == key(same) != key(other)
    plain = {"rank": {"ranks": {"conv1": 2}}, "mode": "whitened", "optimizer": {"_target_": "torch.optim.SGD"}}
    assert by_content(plain) == plain
    with pytest.raises(FileNotFoundError):
        by_content({"rank": {"ranks": "nowhere.yaml"}})


def test_phases_tell_the_conditions_they_were_computed_with(command, tmp_path, capsys):
    job = (*SMOKE, "rank=uniform")
    assert command(*TRAIN, "force_threads=true") == 0
    (path,) = (tmp_path / "outputs/store").glob("train-*/outcome.json")
    record = json.loads(path.read_text())
    record["conditions"]["threads"] = 8
    del record["digest"]
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert command(*job) == 0
    said = capsys.readouterr().out
    assert "train: from the store, computed with threads 8" in said
    (result,) = (r for r in map(Result.read, tmp_path.glob("outputs/runs/*/result.json")) if r.method == "decompose")
    assert [(p.name, p.stored, p.conditions["threads"]) for p in result.phases] == [
        ("train", True, 8),
        ("factorize", False, 1),
        ("finetune", False, 1),
    ]
    assert result.phases[0].conditions["torch"] == torch.__version__
    assert result.environment["threads"] == 1
    shutil.copytree(tmp_path / "outputs/store", tmp_path / "exact/store")
    assert command(*job, "store.exact=true", outputs=tmp_path / "exact") == 0
    exact = only_result(tmp_path / "exact")
    assert [(p.stored, p.conditions["threads"]) for p in exact.phases] == [(False, 1), (True, 1), (True, 1)]
    assert exact.fingerprint == result.fingerprint


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, True])
def test_latencies_take_a_time(seconds):
    with pytest.raises(ValueError, match="seconds="):
        measure(nn.Linear(4, 3), torch.zeros(1, 4), seconds=seconds)


def test_latencies_take_an_image():
    with pytest.raises(ValueError, match="at least one image"):
        measure(nn.Linear(4, 3), torch.zeros(0, 4), seconds=0.01)
