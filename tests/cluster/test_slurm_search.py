"""A search whose jobs run on a real SLURM."""

import os
import subprocess
import sys

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.files.searches import Search
from support.smoke import SMOKE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SEARCH = ("experiment=digits_search", *SMOKE, "losses.images=0", "sweeper.trials=2", "sweeper.batch=2")


def test_trials_of_a_batch_are_one_array(cluster, tmp_path):
    outputs = tmp_path / "outputs"
    launcher = ("launcher=slurm", "launcher.minutes=10", f"sweeper.storage={outputs}/searches.journal")
    command = [sys.executable, "-m", "lowrank_exp.cli", *SEARCH, *launcher, f"paths.outputs={outputs}"]
    environment = {**os.environ, **cluster.environment}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("SLURM's job ") == 1
    assert "2 of 2 jobs ended well" in run.stdout
    (file,) = outputs.glob("digits_search/search-*.json")
    search = Search.read(file)
    results = {path.parent.name: Result.read(path) for path in outputs.glob("digits_search/*/result.json")}
    assert {trial.fingerprint: trial.state for trial in search.trials} == dict.fromkeys(results, "complete")
    for trial in search.trials:
        last = results[trial.fingerprint].phases[-1]
        assert trial.values == {"val_accuracy": last.val_accuracy, "macs": last.macs}
    assert len(results) == 2
    assert f"{search.front[0].number}: lowrank-exp hydra.mode=RUN" in run.stdout
    assert "launcher=slurm" not in run.stdout.rpartition("The front")[2]
