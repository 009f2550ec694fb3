"""Searches over jobs that end at once: what is told, pruned, failed, killed and gone on with."""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.lowrank_exp_search import OptunaSweeper
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.table_options import offer_tables
from lowrank_exp.files.results import PhaseResult, Result, digest
from lowrank_exp.files.searches import Search
from lowrank_exp.search.search import search

Values = dict[str, float]


class Killed(BaseException):
    """What ends a process, in a test."""


class Launcher:
    """Jobs whose result follows from their budget, the more accurate the dearer. Dies before its `dies_at`-th job."""

    def __init__(self, outcome: Callable[[float], dict[str, Any]], dies_at: int = -1) -> None:
        self.outcome, self.dies_at = outcome, dies_at
        self.batches: list[list[float]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == sum(map(len, self.batches))
        self.batches.append([])
        return [self.run(overrides) for overrides in job_overrides]

    def run(self, overrides: Sequence[str]) -> JobReturn:
        if sum(map(len, self.batches)) == self.dies_at:
            raise Killed
        given = dict(override.split("=", 1) for override in overrides)
        file, budget = Path(given["sweeper.file"].strip("'")), float(given["rank.macs"])
        (trial,) = [
            one for one in Search.read(file).trials if one.overrides[-1:] == [f"rank.macs={given['rank.macs']}"]
        ]
        assert trial.state == "unfinished"
        self.batches[-1].append(budget)
        folder = file.parent / trial.fingerprint
        outcome = {"status": "ok"} | self.outcome(budget)
        if (error := outcome.pop("raises", None)) is not None:
            return JobReturn(status=JobStatus.FAILED, _return_value=error)
        values = {"val_accuracy": budget, "macs": 100 * budget} | outcome.pop("values", {})
        phases = [PhaseResult("factorize", **values)] if outcome["status"] == "ok" else []
        result = Result(
            fingerprint=folder.name,
            experiment=None,
            row=None,
            seed=0,
            method="decompose",
            config={},
            phases=phases,
            **outcome,
        )
        result.write(folder / "result.json")
        return JobReturn(status=JobStatus.COMPLETED, _return_value=None)


class Loader:
    """Composes no more of a job than the folder that it has."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        deciding = [one for one in sweep_overrides if not one.startswith(("sweeper.", "paths."))]
        sweep = {"dir": master_config.hydra.sweep.dir, "subdir": f"runs/{digest(deciding)[:16]}"}
        return OmegaConf.create({"hydra": {"sweep": sweep}})


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """The configuration of a search."""
    offer_tables()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["sweeper=optuna", "logger=none"], return_hydra_config=True)


@pytest.fixture
def searched(composed, tmp_path) -> Callable:
    """Run a search; gives its file's content and the launcher."""

    def run(
        *overrides: str,
        outcome: Callable[[float], dict[str, Any]] = lambda budget: {},
        dies_at: int = -1,
        outputs: Path = tmp_path / "outputs",
    ) -> tuple[Search, Launcher]:
        config, launcher = composed.copy(), Launcher(outcome, dies_at)
        fixed = [f"paths.outputs={outputs}", "sweeper.startup=3", *overrides]
        for key, _, value in (one.partition("=") for one in fixed):
            OmegaConf.update(config, key, yaml.safe_load(value))
        with contextlib.suppress(Killed):
            search(config, Loader(), launcher, [*fixed, "rank.macs=interval(0.2,0.8)"])
        (file,) = outputs.glob("runs/search-*.json")
        return Search.read(file), launcher

    return run


def test_a_search_tells_what_results_say_and_shows_its_front(searched, capsys):
    found, launcher = searched("sweeper.trials=4", "sweeper.batch=2", outcome=lambda budget: {"values": {"macs": 7}})
    assert [len(batch) for batch in launcher.batches] == [2, 2]
    budgets = list(itertools.chain(*launcher.batches))
    assert [trial.values for trial in found.trials] == [{"val_accuracy": b, "macs": 7.0} for b in budgets]
    assert {trial.state for trial in found.trials} == {"complete"}
    best = max(range(4), key=budgets.__getitem__)
    assert [trial.number for trial in found.front] == [best]  # of equal costs
    said = capsys.readouterr().out
    assert "4 trials: 4 complete. The front, which none of them beats in val_accuracy and macs" in said
    assert f"{best}: lowrank-exp paths.outputs=" in said
    assert f"rank.macs={budgets[best]}" in said.partition("4 trials")[2]


def test_failed_and_pruned_trials_have_their_reason_and_the_search_goes_on(searched):
    ways = {
        "raises": {"raises": ValueError("rank.macs is not reachable")},
        "result": {"status": "failed", "error": "Traceback\nRuntimeError: out of memory"},
        "pruned": {"status": "pruned", "error": "hopeless"},
        "unmeasured": {"values": {"val_accuracy": None}},
        "well": {},
    }
    left = iter(["well", *ways])
    found, _ = searched("sweeper.trials=6", outcome=lambda budget: dict(ways[next(left)]))
    assert [(trial.state, trial.reason) for trial in found.trials] == [
        ("complete", ""),
        ("failed", "rank.macs is not reachable"),
        ("failed", "RuntimeError: out of memory"),
        ("pruned", "hopeless"),
        ("failed", "val_accuracy is not known of the network after the last phase: there are no validation images"),
        ("complete", ""),
    ]
    assert {trial.number for trial in found.front} <= {0, 5}


def test_a_search_whose_trials_all_fail_ends_with_the_reason(searched, tmp_path):
    with pytest.raises(
        ValueError, match="3 trials of the search have failed and none has ended well; the last one: no"
    ):
        searched(outcome=lambda budget: {"raises": ValueError("no disk")})
    with pytest.raises(ValueError, match="no trial of the search is complete"):
        searched("sweeper.trials=1", outcome=lambda b: {"raises": ValueError("no")}, outputs=tmp_path / "other")


@pytest.mark.parametrize("storage", ["searches.db", "searches.journal"])
def test_a_search_that_was_killed_ends_as_an_undisturbed_one(searched, tmp_path, storage):
    def options(outputs: Path) -> list[str]:
        return ["sweeper.trials=7", "sweeper.batch=2", f"sweeper.storage={outputs / storage}"]

    whole, _ = searched(*options(tmp_path / "whole"), outputs=tmp_path / "whole")
    killed = tmp_path / "killed"
    for dies_at, ended in ((1, 0), (2, 2), (3, 4)):  # in the first batch, before the second, third
        found, launcher = searched(*options(killed), outputs=killed, dies_at=dies_at)
        assert sum(trial.state == "complete" for trial in found.trials) == ended, dies_at
    assert [trial.state for trial in found.trials] == ["complete"] * 4 + ["unfinished"] * 2
    assert len(launcher.batches[0]) == 2
    found, launcher = searched(*options(killed), outputs=killed)
    assert [len(batch) for batch in launcher.batches] == [2, 1]  # those that were running, then the rest

    def said(found: Search) -> list:
        return [(trial.number, trial.state, trial.values, trial.overrides[-1]) for trial in found.trials]

    assert said(found) == said(whole)
    again, launcher = searched(*options(killed), outputs=killed)
    assert (again, launcher.batches) == (found, [])
    more, launcher = searched(*options(killed), "sweeper.trials=9", outputs=killed)  # goes on
    assert (len(more.trials), more.trials[:7], sum(map(len, launcher.batches))) == (9, found.trials, 2)


def test_another_space_or_job_is_another_search_in_the_same_database(searched, tmp_path):
    searched("sweeper.trials=1")
    offered = [optuna.get_all_study_names(f"sqlite:///{tmp_path / 'outputs/searches.db'}")]
    with pytest.raises(ValueError, match="too many values to unpack"):
        searched("sweeper.trials=1", "seed=1")  # two files beside each other now
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'outputs/searches.db'}")
    assert (len(offered[0]), len(names)) == (1, 2)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sweeper.objectives=[macs]"], "val_accuracy is one of them"),
        (["sweeper.objectives=[val_accuracy,accuracy]"], "allowed is a list of one or more, each one of val_accuracy"),
        (["sweeper.objectives=[val_accuracy,latency_ms]", "latency.seconds=0"], "latency.seconds=0 leaves it out"),
        (["dry_run=true"], "dry_run=True in a search: its jobs have no results"),
        (["stop_after=train"], "stop_after=train in a search"),
        (["sweeper.trials=0"], "sweeper.trials=0 is refused"),
        (["sweeper.sampler=grid"], "one of tpe, nsga2, random"),
        (["sweeper.storage=mysql://nowhere/x"], "sweeper.storage=mysql://nowhere/x cannot be used"),
    ],
)
def test_options_that_make_no_sense_are_refused(searched, overrides, told):
    with pytest.raises(ValueError, match=told.replace("[", r"\[")):
        searched(*overrides)


def test_every_sampler_gives_trials_within_the_space(searched, tmp_path):
    drawn = {}
    for sampler in ("tpe", "nsga2", "random"):
        found, _ = searched("sweeper.trials=6", f"sweeper.sampler={sampler}", outputs=tmp_path / sampler)
        drawn[sampler] = [json.loads(trial.overrides[-1].partition("=")[2]) for trial in found.trials]
        assert len(set(drawn[sampler])) == 6
        assert all(0.2 <= budget <= 0.8 for budget in drawn[sampler])
    assert drawn["tpe"][3:] != drawn["random"][3:]  # after the start it learns


def test_without_optuna_the_extra_is_named(monkeypatch):
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "optuna" or name.startswith("lowrank_exp.search")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'lowrank_exp\[search\]'"):
        OptunaSweeper().sweep(["rank.macs=interval(0.2,0.8)"])


def test_a_grid_has_no_options():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert "sweeper" not in OmegaConf.to_container(compose("config"), resolve=False)
