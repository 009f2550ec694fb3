"""Runs that a signal ends: their exit status, what they say, and what the same command finds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lowrank_exp.files.results import Result
from lowrank_exp.job import network_job as job
from lowrank_exp.job import signals
from lowrank_exp.job.ends import told_apart
from lowrank_exp.job.receipts import RECEIPT
from lowrank_exp.job.signals import Interrupted, ending_at_boundaries, raise_received, received, signals_raised
from support.smoke import SMOKE

LONG = (*SMOKE, "method=train", "training.epochs=4")


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after[signal.SIGTERM] is before[signal.SIGTERM]


def sent_after(epochs: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    """Have the process get a signal when so many epochs have ended, and be told of them."""
    told = []

    class Log(job.Log):
        def epoch(self, phase, metrics):
            told.append(phase)
            if len(told) == epochs:
                signal.raise_signal(number)

    monkeypatch.setattr("lowrank_exp.job.network_job.Log", Log)


def only_result(outputs: Path) -> Result:
    (path,) = outputs.glob("runs/*/result.json")
    return Result.read(path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"])
def test_a_signal_in_training_is_recorded_and_the_same_command_goes_on(command, tmp_path, monkeypatch, capfd, name):
    outputs, number = tmp_path / "outputs", getattr(signal, name)
    with monkeypatch.context() as patch, ending_at_boundaries(signal.SIGUSR2, patience=600.0):
        sent_after(2, patch, number)
        assert command(*LONG) == 128 + number
    said = f"interrupted by {name} in train, epoch 3 of 4; the same command goes on from there"
    assert said in capfd.readouterr().err.splitlines()
    stopped = only_result(outputs)
    assert (stopped.status, stopped.error, stopped.phases) == ("interrupted", said, [])
    assert [path.name for path in outputs.glob("store/train-*/*")] == ["last.ckpt"]
    assert command(*LONG) == 0
    assert only_result(outputs).status == "ok"
    assert command(*LONG, outputs=tmp_path / "undisturbed") == 0
    states = [
        torch.load(next(root.glob("runs/*/model.pt")), weights_only=True)["state_dict"]
        for root in (outputs, tmp_path / "undisturbed")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_rest_of_a_sweep_is_told_as_not_run(command, tmp_path, monkeypatch, capfd):
    sent_after(5, monkeypatch)  # in the first epoch of the second job
    assert command("-m", *LONG, "seed=0,1,2,3") == 128 + signal.SIGTERM
    lines = capfd.readouterr().err.splitlines()
    assert "interrupted by SIGTERM in train, epoch 2 of 4; the same command goes on from there" in lines
    assert lines[-1] == "2 jobs not run: seed=2; seed=3"
    results = [Result.read(path) for path in (tmp_path / "outputs").glob("runs/*/result.json")]
    assert {result.seed: result.status for result in results} == {0: "ok", 1: "interrupted"}


def test_a_good_result_is_not_overwritten(command, tmp_path, monkeypatch):
    assert command(*LONG) == 0
    good = only_result(tmp_path / "outputs")
    (good.folder / RECEIPT).unlink()  # else it answers without looking at the data
    monkeypatch.setattr("lowrank_exp.data.Digits._load", lambda self: signal.raise_signal(signal.SIGTERM))
    assert command(*LONG) == 128 + signal.SIGTERM
    assert only_result(tmp_path / "outputs") == good


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("lowrank_exp.data.Digits._load", "before the first phase"),
        ("lowrank_exp.phases.factorize.factorize_", "in factorize"),
        ("lowrank_exp.job.scores.evaluate", "in train, after its last epoch"),
        ("lowrank_exp.job.network_job.layer_results", "after the last phase"),
    ],
)
def test_signals_outside_of_training(command, tmp_path, monkeypatch, capfd, place, said):
    monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert command(*SMOKE) == 128 + signal.SIGTERM
    assert f"interrupted by SIGTERM {said}; the same" in capfd.readouterr().err
    assert only_result(tmp_path / "outputs").status == "interrupted"


def test_a_signal_that_a_library_turns_into_its_own_error_is_still_one(command, tmp_path, monkeypatch):
    def swallowed(*_):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            raise ImportError("cannot be imported") from None

    monkeypatch.setattr("lowrank_exp.data.Digits._load", swallowed)
    assert command(*SMOKE) == 128 + signal.SIGTERM
    assert only_result(tmp_path / "outputs").status == "interrupted"


def test_a_second_signal_is_left_out_while_the_run_ends(monkeypatch):
    with signals_raised():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # raises nothing
        assert (received().name, received().status) == ("SIGINT", 130)
        with pytest.raises(Interrupted):
            raise_received()
        monkeypatch.setattr(signals, "PATIENCE", 0.0)
        with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_is_asked_to_end_comes_to_a_boundary_or_ends_when_patience_is_over():
    with signals_raised(), ending_at_boundaries(signal.SIGUSR2, patience=0.2):
        if (child := os.fork()) == 0:  # a loader's worker, which has inherited the handler
            signal.raise_signal(signal.SIGUSR2)
            os._exit(0 if received() is None and not signals._asked else 1)
        assert os.waitpid(child, 0)[1] == 0
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)  # the same once more
        assert received() is None
        with pytest.raises(Interrupted, match="interrupted by SIGUSR2"):
            time.sleep(60)
        signal.raise_signal(signal.SIGUSR2)  # it is ending already
        assert received().number == signal.SIGUSR2
    with signals_raised(), ending_at_boundaries(signal.SIGUSR2, patience=0.05):
        raise_received()
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(Interrupted, match="interrupted by SIGUSR2"):
            raise_received()
        time.sleep(0.2)  # nobody is reminded of what has been heard
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_what_the_caller_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    with signals_raised():
        signal.raise_signal(signal.SIGHUP)
        assert received() is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_overrides_that_all_jobs_share_are_left_out():
    assert told_apart([["a=1", "b=2"], ["a=1", "b=3"], ["a=2", "b=2"]]) == ["a=1 b=2", "a=1 b=3", "a=2 b=2"]
    assert told_apart([["a=1", "c=1"], ["a=2", "c=1"]]) == ["a=1", "a=2"]
    assert told_apart([["a=1", "c=1"]]) == ["a=1 c=1"]


def started(outputs: Path, *arguments: str, epochs: int = 500) -> subprocess.Popen:
    """A run of many epochs, in a process of its own, that has finished the first."""
    command = [sys.executable, "-m", "lowrank_exp.cli", *arguments, *SMOKE, "method=train", f"training.epochs={epochs}"]
    process = subprocess.Popen([*command, f"paths.outputs={outputs}"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(outputs.glob("store/*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    return process


def children(process: subprocess.Popen) -> list[int]:
    """The ids of its child processes."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def gone(pids: list[int], within: float = 60.0) -> bool:
    """Whether these processes end; one that nobody has waited for counts as ended."""
    deadline = time.monotonic() + within

    def lives(pid: int) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(lives, pids))


@pytest.mark.slow
def test_a_fit_on_several_devices_ends_with_any_of_its_workers(tmp_path):
    process = started(tmp_path, "devices=2", "threads=1")
    workers = children(process)
    os.kill(workers[-1], signal.SIGTERM)
    process.communicate(timeout=120)
    assert (process.returncode, only_result(tmp_path).status) == (1, "failed")
    assert len(workers) >= 2
    assert gone(workers)


@pytest.mark.slow
def test_a_sweep_goes_on_without_the_process_that_is_killed(tmp_path):
    process = started(tmp_path, "-m", "launcher=joblib", "launcher.n_jobs=2", "seed=0,1", "threads=1", epochs=20)
    os.kill(children(process)[-1], signal.SIGKILL)
    process.communicate(timeout=300)
    found = [Result.read(path) for path in tmp_path.glob("runs/*/result.json")]
    assert process.returncode == 0
    assert sorted((result.seed, result.status) for result in found) == [(0, "ok"), (1, "ok")]


@pytest.mark.slow
def test_no_job_of_a_sweep_outlives_the_sweep(tmp_path):
    process = started(tmp_path, "-m", "launcher=joblib", "launcher.n_jobs=2", "seed=0,1", "threads=1")
    workers = children(process)
    process.kill()
    process.communicate(timeout=120)
    assert len(workers) >= 2
    assert gone(workers)
