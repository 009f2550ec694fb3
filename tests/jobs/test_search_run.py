"""Searches as they are typed: their jobs are jobs like any other, and hopeless ones end early."""

import shlex
from pathlib import Path

from lowrank_exp.files.results import Result
from lowrank_exp.files.searches import Search, Trial
from support.smoke import SMOKE

SEARCH = (*SMOKE, "losses.images=0", "sweeper=optuna", "sweeper.trials=2", "rank.macs=interval(0.3,0.7)")


def test_the_jobs_of_a_search_are_those_of_their_commands(command, tmp_path, capsys):
    outputs = tmp_path / "outputs"
    assert command(*SEARCH) == 0
    said = capsys.readouterr().out
    (file,) = outputs.glob("runs/search-*.json")
    search = Search.read(file)
    results = {path.parent.name: Result.read(path) for path in outputs.glob("runs/*/result.json")}
    assert {trial.fingerprint for trial in search.trials} == set(results)
    for trial in search.trials:
        result = results[trial.fingerprint]
        last = result.phases[-1]
        assert trial.values == {"val_accuracy": last.val_accuracy, "macs": last.macs}
        assert (trial.phase, len(trial.curve)) == ("finetune", 1)
        assert trial.costs["macs"] == result.phases[-2].macs
        assert float(trial.overrides[-1].removeprefix("rank.macs=")) == result.config["rank"]["macs"]
    assert said.count(f"{search.front[0].number}: lowrank-exp ") == 1
    (line,) = [line for line in said.splitlines() if line.startswith(f"{search.front[0].number}: lowrank-exp ")]
    typed = shlex.split(line.partition("lowrank-exp ")[2])
    assert not [one for one in typed if one.startswith("sweeper")]

    assert command(*typed) == 0  # alone
    assert "finished already; nothing is run again" in capsys.readouterr().out
    assert len(list(outputs.glob("runs/*/result.json"))) == 2
    assert command(*SEARCH) == 0  # again: nothing is left to do
    assert "2 trials: 2 complete" in capsys.readouterr().out
    assert Search.read(file) == search


def test_a_hopeless_job_ends_early_and_goes_on_when_it_is_run_alone(command, tmp_path, capsys):
    costs = {"val_accuracy": 1.0, "macs": 1.0}
    rivals = [Trial(n, "complete", values=costs, phase="finetune", curve=[1.0, 1.0], costs={"macs": 1}) for n in (0, 1)]
    file = tmp_path / "search-1.json"
    Search("runs-1", ["val_accuracy", "macs"], 2, 1, rivals).write(file)
    job = (*SMOKE, "losses.images=0", "rank.macs=0.5", "finetune.epochs=2", "logger=csv")
    assert command(*job, "sweeper=optuna", f"sweeper.file={file}", "hydra.mode=RUN") == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "outputs").glob("runs/*/result.json")
    result = Result.read(path)
    assert (result.status, result.complete, result.phases) == ("pruned", False, [])
    assert result.error.startswith("after epoch 2 of finetune its validation accuracy is at best 0.")
    assert "pruned in finetune, after its last epoch: after epoch 2 of finetune" in said
    metrics = Path(path.parent, "csv", "metrics.csv").read_text().splitlines()
    assert dict(zip(metrics[0].split(","), metrics[-1].split(","), strict=True))["pruned"] == "1.0"

    assert command(*job) == 0
    assert Result.read(path).status == "ok"
    (outcome,) = (tmp_path / "outputs/store").glob("finetune-*/outcome.json")
    assert outcome.is_file()
    assert command(*job, "sweeper=optuna", f"sweeper.file={file}", "hydra.mode=RUN") == 0  # finished is finished
    assert Result.read(path).status == "ok"
