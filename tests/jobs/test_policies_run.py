"""Rank policies that look at data, from the command line to the plan."""

import json

import pytest
import yaml

from lowrank_exp.files.results import Result
from support.smoke import SMOKE

FACTORIZE = "method.phases.factorize"
QUICK = (f"{FACTORIZE}.measure.images=60", f"{FACTORIZE}.measure.samples=3", f"{FACTORIZE}.measure.gradients=40")
JOB = (*SMOKE, *QUICK, "method.order=[train,factorize]", "rank.macs=0.6")

LOOKING = [
    ("enc_inf", "rank.candidates=3"),
    ("enc_inf", "rank.candidates=2", "rank.metric=A_c"),
    ("enc_map", "rank.metric=measured"),
    ("enc_model", "rank.metric=A_m"),
    ("greedy_eval",),
    ("knapsack", "rank.metric=measured"),
    ("knapsack", "rank.metric=sensitivity"),
    ("knapsack", "rank.metric=sensitivity", "decomposition=joined"),
]


def result_and_folder(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


@pytest.mark.parametrize("options", LOOKING, ids=" ".join)
def test_a_policy_that_looks_at_data_meets_its_budget(options, command, tmp_path):
    policy, *more = options
    assert command(*JOB, f"rank={policy}", *more) == 0
    result, folder = result_and_folder(tmp_path / "outputs")
    assert 0.594 <= result.phases[-1].macs / result.phases[0].macs <= 0.606
    plan = yaml.safe_load((folder / "plan.yaml").read_text())
    assert plan["policy"] == policy


def test_every_policy_of_the_configuration_gives_multiples_of_a_number(command, tmp_path):
    options = ["rank=knapsack", "rank.multiple=4", "rank.rules={conv1: null}"]
    assert command(*JOB, *options) == 0
    result, _ = result_and_folder(tmp_path / "outputs")
    ranks = [layer.rank for layer in result.layers if layer.rank is not None]
    assert ranks
    assert all(rank % 4 == 0 for rank in ranks)
    assert 0.594 <= result.phases[-1].macs / result.phases[0].macs <= 0.606


def test_scores_serve_all_policies_and_a_killed_run_goes_on(command, tmp_path, monkeypatch):
    """The table of single layers is measured once; of a run that dies on the way what was measured stays."""
    from lowrank_exp.training.probes import network_score

    evaluate, done = network_score.evaluate, []

    def dies_after_five(*args):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(evaluate(*args))
        return done[-1]

    monkeypatch.setattr(network_score, "evaluate", dies_after_five)
    assert command(*JOB, "rank=greedy_eval") == 130
    stored = list((tmp_path / "outputs/store/scores").rglob("*.json"))
    assert len(stored) == 5
    accuracies = sorted(json.loads(path.read_text())["accuracy"] for path in stored)
    assert accuracies == sorted(scores.accuracy for scores in done)

    measured = []
    monkeypatch.setattr(network_score, "evaluate", lambda *args: measured.append(args) or evaluate(*args))
    assert command(*JOB, "rank=greedy_eval") == 0
    cells = len(list((tmp_path / "outputs/store/scores").rglob("*.json")))
    assert len(measured) == cells - 5 > 0
    measured.clear()
    assert command(*JOB, "rank=knapsack", "rank.metric=measured") == 0
    assert not measured


def test_without_validation_images_it_says_what_to_do(command, capsys):
    assert command(*JOB, "rank=greedy_eval", "data.validation=0") == 1
    assert "set data.validation to a fraction" in " ".join(capsys.readouterr().err.split())
