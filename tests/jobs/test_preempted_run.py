"""Jobs of launchers by submitit, without a cluster: asked to end, they go on in the same folder to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lowrank_exp.files.results import Result
from support.smoke import SMOKE

TRAIN = (*SMOKE, "method=train", "training.epochs=60", "threads=1")


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and that these have; the last ones last."""
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(inner for one in found for inner in descendants(one))]


@pytest.mark.slow
def test_a_job_that_is_asked_to_end_is_started_again_and_goes_on_to_the_same_bits(command, tmp_path):
    outputs, alone = tmp_path / "outputs", tmp_path / "alone"
    program = [sys.executable, "-m", "lowrank_exp.cli", "-m", *TRAIN, "launcher=local", f"paths.outputs={outputs}"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(outputs.glob("store/*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(descendants(process.pid)[-1], signal.SIGUSR2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "ended well" in said
    (log,) = outputs.glob("launched/*/*log.out")
    told = log.read_text()
    assert [line[:8] for line in told.splitlines() if "Requeued job" in line] == ["submitit", "[INFO] R"]  # once
    assert told.count("Starting with") == 2
    assert (
        "interrupted by SIGUSR2 in train, epoch" in told
        or "ends at the next boundary" in log.with_suffix(".err").read_text()
    )
    (path,) = outputs.glob("runs/*/result.json")
    assert Result.read(path).status == "ok"
    assert command(*TRAIN, outputs=alone) == 0
    ours, theirs = (
        torch.load(next(root.glob("runs/*/model.pt")), weights_only=True)["state_dict"] for root in (outputs, alone)
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert [p.parent.name for p in alone.glob("runs/*/result.json")] == [path.parent.name]  # the same job


def test_a_launcher_needs_a_sweep_and_stands_alone(command, capfd):
    assert command(*SMOKE, "launcher=local") == 1
    assert "launcher=local without -m: launchers run the jobs of a sweep" in capfd.readouterr().err
    assert command("-m", *SMOKE, "launcher=local", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1") == 1
    assert "launcher=local beside hydra/launcher=joblib: leave one out" in capfd.readouterr().err


def test_phases_up_to_one_are_stored_for_other_jobs_and_there_is_no_result(command, tmp_path, capfd):
    assert command(*SMOKE, "stop_after=trin") == 1
    assert (
        "stop_after=trin is refused: allowed is a phase of this method's order, train, factorize"
        in capfd.readouterr().err
    )
    assert command(*SMOKE, "stop_after=train") == 0
    assert [path.parent.name.partition("-")[0] for path in tmp_path.glob("outputs/store/*/outcome.json")] == ["train"]
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("model.pt"))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/store/train-*/*")}
    assert command(*SMOKE) == 0
    (path,) = tmp_path.rglob("result.json")
    assert next((phase.name, phase.stored) for phase in Result.read(path).phases) == ("train", True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/store/train-*/*")} == written
