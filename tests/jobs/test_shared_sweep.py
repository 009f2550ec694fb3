"""A sweep whose jobs another process holds."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from lowrank_exp.files.exclusion import hold_lock
from lowrank_exp.files.results import Result
from support.smoke import SMOKE

SWEEP = ("-m", *SMOKE, "method=evaluate", "seed=0,1")


def by_seed(outputs: Path) -> dict[int, Path]:
    return {Result.read(path).seed: path for path in outputs.glob("runs/*/result.json")}


class Other(threading.Thread):
    """Holds a lock until a file is there, and leaves a result before it goes."""

    def __init__(self, lock: Path, until: Path, result: Result | None) -> None:
        super().__init__(daemon=True)
        self.lock, self.until, self.result, self.has = lock, until, result, threading.Event()

    def run(self) -> None:
        with hold_lock(self.lock, lambda: None):
            self.has.set()
            while not self.until.exists():
                time.sleep(0.01)
            if self.result is not None:
                self.result.write(self.lock.parent / "result.json")


@pytest.mark.parametrize("failed", [False, True])
def test_jobs_that_another_process_holds_come_last(command, tmp_path, capfd, failed):
    outputs = tmp_path / "outputs"
    assert command(*SWEEP) == 0
    first, second = by_seed(outputs)[0], by_seed(outputs)[1]
    done = Result.read(first)
    left = Result(
        "failed", done.fingerprint, None, None, 0, "evaluate", {}, error="Traceback\nValueError: of the other"
    )
    shutil.rmtree(outputs)
    other = Other(first.parent / ".lock", second, left if failed else None)
    other.start()
    other.has.wait()
    capfd.readouterr()
    assert command(*SWEEP) == (1 if failed else 0)
    other.join()
    said = capfd.readouterr()
    lines = [line.removeprefix("[sweep] ") for line in said.out.splitlines() if line.startswith("[sweep] ")]
    assert [line for line in lines if "later" in line] == [f"\t#0 later: another process holds {first.parent.name}"]
    ended = [line for line in said.out.splitlines() if line.startswith("#")]
    if failed:
        failure = f"#0 seed=0: failed in another process: ValueError: of the other ({first})"
        assert lines[-2:] == [failure, "1 of 2 jobs ended well"]
        assert failure in said.err.splitlines()
        assert [line[:12] for line in ended] == ["#1 seed=1: t"]
        assert "error: failed in another process: ValueError: of the other" in said.err
        assert command(*SWEEP) == 0  # a sweep that begins later tries again
    else:
        assert lines[-1] == "2 of 2 jobs ended well"
        assert [line[:12] for line in ended] == ["#1 seed=1: t", "#0 seed=0: t"]
    assert {seed: Result.read(path).status for seed, path in by_seed(outputs).items()} == {0: "ok", 1: "ok"}


def test_a_job_whose_first_phase_another_process_computes_comes_later(command, tmp_path, capfd):
    outputs = tmp_path / "outputs"
    assert command(*SWEEP) == 0
    path, second = by_seed(outputs)[0], by_seed(outputs)[1]
    (phase,) = Result.read(path).phases
    shutil.rmtree(outputs)
    lock = outputs / "store" / f"evaluate-{phase.key[:16]}.lock"
    other = Other(lock, second, None)
    other.start()
    other.has.wait()
    capfd.readouterr()
    assert command(*SWEEP) == 0
    other.join()
    said = capfd.readouterr().out
    assert f"#0 later: another process holds evaluate-{phase.key[:16]}" in said
    assert "2 of 2 jobs ended well" in said
