"""Controls beside the rows that they control: order, labels, marks, and no part in what was published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lowrank_exp.command_line.tables import read_table
from lowrank_exp.files.results import Result
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import beside_their_rows, configurations
from lowrank_exp.report.expected import with_missing
from lowrank_exp.report.render import formatted
from lowrank_exp.report.table import notes, table


def controlled(job: Callable, name: str, of: Result, **changes: object) -> Result:
    """A control of a job; its configuration has the control's name."""
    made = job(seed=of.seed, row=of.row, experiment=of.experiment, **changes, control=name)
    return replace(made, control={"name": name, "of": of.fingerprint})


@pytest.fixture
def jobs(job: Callable) -> list[Result]:
    rows = [
        job(row=row, experiment="table1", seed=seed, policy=row) for row in ("svd_energy", "svd") for seed in (0, 1)
    ]
    kinds = (("from_scratch", 0.80), ("dense_by_width", 0.84))
    return [
        controlled(job, name, row, accuracy=accuracy + 0.001 * row.seed, policy=row.row)
        for name, accuracy in kinds
        for row in rows
    ] + rows


def test_they_stand_behind_their_rows_and_are_called_by_their_numbers(jobs: list[Result], conf: Path) -> None:
    rows = beside_their_rows(with_missing(configurations(jobs), read_table(conf / "table" / "table1.yaml")))
    assert [(row.label, row.controls, row.status) for row in rows] == [
        ("svd", "", "ok"),
        ("svd (control: dense by width)", "svd", "ok"),
        ("svd (control: from scratch)", "svd", "ok"),
        ("svd_energy", "", "ok"),
        ("svd_energy (control: dense by width)", "svd_energy", "ok"),
        ("svd_energy (control: from scratch)", "svd_energy", "ok"),
    ]
    frame = table(rows)
    assert frame["control"].tolist() == ["", "dense by width", "from scratch"] * 2
    assert frame["series"].tolist()[1] == "control: dense by width"
    text = formatted(frame)
    assert text["configuration"].tolist()[:3] == ["svd", "control of 1: dense by width", "control of 1: from scratch"]
    assert text["≈"].tolist() == ["4", "5", "6", "1", "2", "3"]
    assert frame["not_distinguishable_from"].tolist()[2] == "svd_energy (control: from scratch)"
    assert formatted(frame.iloc[::-1])["configuration"].tolist()[0] == "control of 3: from scratch"


def test_what_was_published_is_compared_with_rows_alone(
    jobs: list[Result], runs: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(*jobs)
    assert main([str(folder)], conf=conf) == 0
    assert "control of 1:" in capsys.readouterr().out
    assert "control of 1: from scratch" in (folder / "report" / "results.md").read_text()
    frame = pd.read_csv(folder / "report" / "results.csv", keep_default_na=False)
    assert [bool(value) for value in frame["paper.CR-F"]] == [True, False, False] * 2
    assert "control of 4: dense by width" in (folder / "report" / "results.tex").read_text()


def test_a_void_control_says_why_and_harms_nothing(
    job: Callable, runs: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        job(row=row, experiment="table1", seed=seed, policy=row) for row in ("svd", "svd_energy") for seed in (0, 1)
    ]
    void = [controlled(job, "dense_by_width", row, status="void", error="no width") for row in rows[:2]]
    found = configurations([*rows, *void])
    assert notes(found) == ["void: svd (control: dense by width): no width"]
    assert [row.status for row in found] == ["ok", "ok", "void"]
    assert table(found)["failed_seeds"].tolist() == ["", "", ""]
    assert main([str(runs(*rows, *void))], conf=conf) == 0
    assert "void: svd (control: dense by width): no width" in capsys.readouterr().out


def test_a_control_without_its_row_has_a_label_of_its_own(job: Callable) -> None:
    alone = configurations([controlled(job, "from_scratch", job(row="svd"))])
    assert [(row.label, row.controls) for row in alone] == [("svd (control: from scratch)", "")]
    assert formatted(table(alone))["configuration"].tolist() == ["svd (control: from scratch)"]
