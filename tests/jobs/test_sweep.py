"""Sweeps: one dense network for all rows, failures recorded, killed runs resumed to the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lowrank_exp.files.results import Result
from support.smoke import SMOKE

SWEEP = ("-m", "rank.macs=0.3,0.6", "seed=0,1", "training.epochs=4", "finetune.epochs=2")


def results(outputs: Path) -> list[Result]:
    return [Result.read(path) for path in sorted(outputs.glob("*/*/result.json"))]


def figures(outputs: Path) -> dict:
    """All that must be equal between two runs: everything but seconds, latency and date."""
    return {
        result.fingerprint: [
            (p.name, p.key, p.accuracy, p.val_accuracy, p.loss, p.top5, p.macs, p.weights, p.parameters)
            for p in result.phases
        ]
        + [(layer.name, layer.rank, layer.macs_after) for layer in result.layers]
        for result in results(outputs)
    }


def networks(outputs: Path) -> dict[str, dict[str, torch.Tensor]]:
    paths = outputs.glob("runs/*/model.pt")
    return {path.parent.name: torch.load(path, weights_only=True)["state_dict"] for path in paths}


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_is_refused_and_the_other_jobs_go_on(command, tmp_path, capfd):
    outputs = tmp_path / "outputs"
    sweep = ("-m", *SMOKE, "rank.macs=0.01,0.5,0.6")
    assert command(*sweep) == 1
    assert "macs=0.01" in capfd.readouterr().err
    by_budget = {result.config["rank"]["macs"]: result for result in results(outputs)}
    assert {budget: result.status for budget, result in by_budget.items()} == {0.5: "ok", 0.6: "ok"}
    assert len(list((outputs / "store").glob("train-*/network.pt"))) == 1

    written = {path: path.stat().st_mtime_ns for path in outputs.glob("runs/*/result.json")}
    assert command(*sweep) == 1  # nothing is run again
    assert {path: path.stat().st_mtime_ns for path in outputs.glob("runs/*/result.json")} == written


@pytest.mark.slow
def test_experiment_carries_its_sweep(command, tmp_path, capfd):
    arguments = ("experiment=digits_budgets", *SMOKE, "hydra.sweeper.params.seed='0'")
    assert command(*arguments) == 0
    folder = tmp_path / "outputs" / "digits_budgets"
    assert capfd.readouterr().out.splitlines()[-1] == f"lowrank-report {folder} --html {folder / 'report.html'}"
    found = results(tmp_path / "outputs")
    budgets = {(r.config["rank"]["policy"], r.config["rank"]["macs"], r.experiment) for r in found}
    assert budgets == {(p, b, "digits_budgets") for p in ("uniform", "energy") for b in (0.3, 0.5, 0.75)}
    for result in found:
        ratio = result.phases[-1].macs / result.phases[0].macs
        assert abs(ratio / result.config["rank"]["macs"] - 1) <= 0.01


def start(outputs: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "lowrank_exp.cli", *SWEEP, "logger=none", "latency.seconds=0", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, f"paths.outputs={outputs}", "threads=1"], **quiet)


@pytest.mark.slow
def test_sweep_killed_three_times_equals_an_undisturbed_one(command, tmp_path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    chance = random.Random(0)
    checkpoints_seen = 0
    for after in ("train-*/last.ckpt", "train-*/network.pt", "finetune-*/last.ckpt"):
        process = start(killed)
        deadline = time.monotonic() + 120
        while process.poll() is None and not list((killed / "store").glob(after)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        checkpoints_seen += bool(list((killed / "store").glob(after)))
    assert checkpoints_seen == 3
    assert command(*SWEEP, "logger=none", "latency.seconds=0", "progress=false", outputs=killed) == 0
    assert command(*SWEEP, "logger=none", "latency.seconds=0", "progress=false", outputs=undisturbed) == 0

    assert len(figures(undisturbed)) == 4
    assert figures(killed) == figures(undisturbed)
    ours, theirs = networks(killed), networks(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[job][name], tensor) for job, state in theirs.items() for name, tensor in state.items())


@pytest.mark.slow
def test_jobs_side_by_side_share_the_threads_and_the_dense_network(tmp_path):
    outputs = tmp_path / "outputs"
    arguments = ["-m", *SMOKE, "rank.macs=0.4,0.6", "launcher=joblib", "launcher.n_jobs=2"]
    subprocess.run(
        [sys.executable, "-m", "lowrank_exp.cli", *arguments, f"paths.outputs={outputs}"], check=True, timeout=300
    )
    found = results(outputs)
    assert [result.status for result in found] == ["ok", "ok"]
    cores = len(os.sched_getaffinity(0))
    assert {result.environment["threads"] for result in found} == {max(1, cores // 2)}
    assert len(list((outputs / "store").glob("train-*/network.pt"))) == 1
