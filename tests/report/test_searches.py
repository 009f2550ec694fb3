"""Rows that a search has found: its front is marked, pruned trials are told and are nothing wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lowrank_exp.command_line.tables import read_table
from lowrank_exp.files.gather import gather
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.files.searches import Search, Trial
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.departures import with_departures
from lowrank_exp.report.expected import with_missing
from lowrank_exp.report.figure import FOUND, drawing
from lowrank_exp.report.searches import with_front
from lowrank_exp.report.table import table


def found(runs: Callable[..., Path], *jobs: Result) -> Path:
    """Jobs of one search, each with its MACs and an accuracy on validation images of its own."""
    values = [
        {} if job.status != "ok" else {"val_accuracy": job.phases[-1].val_accuracy, "macs": job.phases[-1].macs}
        for job in jobs
    ]
    trials = [
        Trial(
            number, "complete" if one else job.status, fingerprint=job.fingerprint, values=one, reason=job.error or ""
        )
        for number, (job, one) in enumerate(zip(jobs, values, strict=True))
    ]
    folder = runs(*jobs)
    Search("runs-1", ["val_accuracy", "macs"], 4, 1, trials).write(folder / "search-1.json")
    return folder


def validated(job: Result, accuracy: float) -> Result:
    last: PhaseResult = replace(job.phases[-1], val_accuracy=accuracy)
    return replace(job, phases=[*job.phases[:-1], last])


def test_the_front_is_marked_by_validation_accuracy_and_pruned_rows_tell_why(job, runs, capsys):
    why = "after epoch 2 of finetune its validation accuracy is at best 0.1000"
    folder = found(
        runs,
        validated(job(ratio=0.3, accuracy=0.70), 0.71),
        validated(job(ratio=0.5, accuracy=0.90), 0.70),  # better on test images alone
        validated(job(ratio=0.6, accuracy=0.80), 0.85),
        job(ratio=0.7, status="pruned", error=why),
    )
    assert main([str(folder), "--out", str(folder / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"pruned: macs=0.7: {why}" in said
    assert (
        "search runs-1 for val_accuracy, macs: 4 trials: 3 complete, 1 pruned; its front, by validation images, has 2"
        in said
    )
    frame = pd.read_csv(folder / "out" / "results.csv", keep_default_na=False)
    fronts = dict(zip(frame["configuration"], zip(frame["front"], frame["status"], strict=True), strict=True))
    assert fronts == {
        "macs=0.3": ("val_accuracy, macs", "ok"),
        "macs=0.5": ("", "ok"),
        "macs=0.6": ("val_accuracy, macs", "ok"),
        "macs=0.7": ("", "pruned"),
    }
    lines = (folder / "out" / "results.md").read_text().splitlines()
    (head,) = (line for line in lines if "validation %" in line)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| macs=")]
    place = [cell.strip() for cell in head.split("|")[1:-1]].index("validation %")
    assert [row[place : place + 2] for row in cells[:4]] == [
        ["71.00", "yes"],
        ["70.00", ""],
        ["85.00", "yes"],
        ["", ""],
    ]

    rows = configurations(gather([folder])[0])
    drawn = drawing(with_front(table(rows), rows, [Search.read(folder / "search-1.json")]))
    (line,) = (line for line in drawn.axes[0].lines if line.get_label() == FOUND)
    assert [list(map(float, axis)) for axis in line.get_data()] == [[0.3, 0.6], [70.0, 80.0]]


def test_a_failed_trial_makes_a_report_incomplete_and_a_search_that_cannot_be_read_is_told(job, runs, capsys):
    folder = found(
        runs, validated(job(ratio=0.3), 0.7), job(ratio=0.5, status="failed", error="ValueError: too little")
    )
    assert main([str(folder), "--out", str(folder / "out")]) == 1
    assert "failed: macs=0.5, seed 0: ValueError: too little" in " ".join(capsys.readouterr().out.split())
    (folder / "search-1.json").write_text("{")
    assert main([str(folder), "--out", str(folder / "out")]) == 1
    assert "search-1.json is not the file of a search" in " ".join(capsys.readouterr().out.split())


def test_without_a_search_nothing_is_marked(job, runs):
    folder = runs(job(ratio=0.3))
    assert main([str(folder), "--out", str(folder / "out")]) == 0
    assert "front" not in pd.read_csv(folder / "out" / "results.csv")


def test_a_table_that_is_searched_has_whatever_trials_it_has(job, conf):
    path = conf / "table" / "table1.yaml"
    path.write_text('sweep: {rank.macs: ["interval(0.2,0.8)"]}\nseeds: [0]')
    one = read_table(path)
    rows = with_missing(configurations([job(ratio=r, experiment="table1") for r in (0.31, 0.47)]), one)
    assert [(row.label, row.missing) for row in rows] == [("macs=0.31", ()), ("macs=0.47", ())]
    assert [row.departures for row in with_departures(rows, one)] == [(), ()]
    assert [(row.label, row.missing) for row in with_missing([], one)] == [("table1", (0,))]
