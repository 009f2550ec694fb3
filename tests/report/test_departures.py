"""Rows that have run otherwise than their table states: marked everywhere, and not compared with the paper."""

import re
from dataclasses import replace

import pandas as pd
from omegaconf import OmegaConf

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.job.departures import departures
from lowrank_exp.report.cli import main
from lowrank_exp.report.table import reason
from support.cells import cells


@cells(
    ("typed", "expected"),
    [
        ([], []),
        (["scale=smoke", "data.root=/images", "model.weights=a.pt", "device=cpu", "hydra.mode=RUN"], ["scale=smoke"]),
        (["data=digits", "+model.width=0.5", "seed=3"], ["data=digits", "model.width=0.5"]),
        (["data=imagenet", "pruning.filters=1", "pruning.updates=30", "scale=full"], []),  # as the table has it
        (["finetune.epochs=1", "pruning.macs=0.3714"], ["finetune.epochs=1"]),
    ],
)
def test_overrides_by_which_a_job_departs_from_its_table(typed, expected):
    choices = {"experiment": "taylor_macs", "row": "taylor_macs/vgg16_11_5g"}
    sources = [{"path": str(CONF), "schema": "file"}]
    node = {"runtime": {"choices": choices, "config_sources": sources}, "overrides": {"task": typed}}
    assert departures(OmegaConf.create(node)) == expected
    node["runtime"]["choices"] = {"experiment": None, "row": None}
    assert departures(OmegaConf.create(node)) == []


def reported(folder, conf, capsys):
    status = main([str(folder)], conf=conf)
    out = folder / "report"
    texts = {kind: (out / f"results.{kind}").read_text() for kind in ("md", "tex")}
    return status, pd.read_csv(out / "results.csv"), texts | {"terminal": capsys.readouterr().out}


def test_a_smoke_run_is_marked_and_not_compared(runs, job, conf, capsys):
    """Of one seed, which is all that a smoke run has."""
    jobs = [job(row=row, experiment="table1", ratio=ratio) for row, ratio in (("svd", 0.6), ("svd_energy", 0.5))]
    status, frame, texts = reported(runs(*(replace(one, departures=["scale=smoke"]) for one in jobs)), conf, capsys)
    assert (status, frame["status"].tolist(), frame["departures"].tolist()) == (0, ["ok"] * 2, ["scale=smoke"] * 2)
    assert frame["paper.base"].tolist() == [91.39] * 2
    assert frame["paper.base.difference"].isna().all()
    for kind, text in texts.items():
        assert "not compared: scale=smoke" in " ".join(text.split()), kind
        assert "not as the table states (scale=smoke)" in " ".join(text.split()), kind
        assert "-1.39" not in text, kind  # 90 - 91.39


def test_other_seeds_and_former_results_are_marked_too(runs, job, conf, capsys):
    former = job(row="svd", experiment="table1", choices={"method": "decompose", "scale": "smoke"})
    other = replace(job(row="svd_energy", experiment="table1", seed=7), departures=[])
    stated = replace(job(row="svd_energy", experiment="table1", seed=0, ratio=0.4), departures=[])
    status, frame, texts = reported(runs(former, other, stated), conf, capsys)
    marks = sorted(frame["departures"].fillna(""))
    assert (status, marks) == (1, ["", "", "scale=smoke", "seed=7"])  # the row `svd` itself is missing
    assert "-1.39" in texts["md"]  # of the row as it is stated


def test_a_row_of_which_some_seeds_have_finished(runs, job, conf, capsys):
    table = "table1"
    failed = job(row="svd_energy", experiment=table, seed=1, status="failed", error="T\nValueError: no\n  rank left")
    jobs = [job(row="svd", experiment=table), job(row="svd_energy", experiment=table), failed]
    _, _, texts = reported(runs(*jobs), conf, capsys)
    for kind in ("md", "tex"):
        cells = [cell.strip(" \\") for cell in re.split(r"[|&\n]", texts[kind])]
        assert (cells.count("1 of 2 seeds"), cells.count("failed, 1 of 2 seeds")) == (1, 1), kind
    assert "failed: svd_energy, seed 1: ValueError: no rank left" in texts["terminal"]
    assert "missing: svd, seed 1: no result.json" in texts["terminal"]


def test_the_reason_of_a_failure_is_one_line():
    assert reason("Traceback\n  File\nlowrank_exp.checks.WithoutEffectError: a\n\n  b") == (
        "lowrank_exp.checks.WithoutEffectError: a  b"
    )
    assert reason("no such thing") == "no such thing"
    assert reason(None) == "no error was recorded"
