"""The grid of an experiment, and what of it is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.report import expected
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.expected import Grid, grid, unclear, with_missing


def write(conf: Path, params: str, name: str = "table1") -> None:
    lines = "".join(f"      {line}\n" for line in params.splitlines())
    (conf / "experiment" / f"{name}.yaml").write_text(f"hydra:\n  sweeper:\n    params:\n{lines}")


def missing(jobs: list, conf: Path) -> list[tuple]:
    rows = with_missing(configurations(jobs), grid("table1", conf), conf)
    return [(row.label, row.missing) for row in rows]


def test_plain_lists_are_read(conf: Path) -> None:
    write(conf, "+row: svd, svd_energy\nseed: 0,1,2\nrank.macs: 0.5\n'++model.depth': null")
    assert grid("table1", conf).axes == {
        "row": ("svd", "svd_energy"),
        "seed": ("0", "1", "2"),
        "rank.macs": ("0.5",),
        "model.depth": ("null",),
    }
    assert grid("other", conf) is None


@pytest.mark.parametrize("value", ["range(0,3)", "glob(*)", "'[1,2],[3]'", "'${seeds}'", "'\"a,b\",c'", "[1, 2]"])
def test_what_is_no_plain_list_is_said(conf: Path, value: str) -> None:
    write(conf, f"seed: {value}\nrow: a")
    found = grid("table1", conf)
    assert found.axes == {"row": ("a",)}
    assert len(found.notes) == 1
    assert "is not a plain list" in found.notes[0]


def test_a_key_that_decides_nothing_is_not_checked(conf: Path, job: Callable) -> None:
    write(conf, "threads: 1,2\nrow: svd")
    assert "not recorded" in grid("table1", conf).notes[0]
    assert missing([job(row="svd", experiment="table1")], conf) == [("svd", ())]


def test_missing_rows_and_seeds_in_the_order_of_the_grid(conf: Path, job: Callable) -> None:
    jobs = [job(row="svd_energy", experiment="table1", seed=1), job(row="extra", experiment="table1")]
    assert missing(jobs, conf) == [("svd", (0, 1)), ("svd_energy", (0,)), ("extra", ())]


def test_a_failed_seed_is_not_missing(conf: Path, job: Callable) -> None:
    jobs = [job(row=r, experiment="table1", seed=s, status="failed") for r in ("svd", "svd_energy") for s in (0, 1)]
    assert missing(jobs, conf) == [("svd", ()), ("svd_energy", ())]


def test_rows_of_another_experiment_do_not_count(conf: Path, job: Callable) -> None:
    jobs = [job(row="svd", experiment="other", seed=s) for s in (0, 1)]
    assert missing(jobs, conf) == [("svd", (0, 1)), ("svd_energy", (0, 1)), ("svd", ())]


def test_numbers_are_compared_as_numbers(conf: Path, job: Callable) -> None:
    write(conf, "rank.macs: 0.50,3e-1,0.2\nseed: 0")
    jobs = [job(experiment="table1", ratio=r) for r in (0.3, 0.5)]
    assert missing(jobs, conf) == [("rank.macs=0.5", ()), ("rank.macs=0.3", ()), ("rank.macs=0.2", (0,))]


def test_rows_in_a_folder_and_without_seeds(conf: Path, job: Callable) -> None:
    write(conf, "row/table1: svd,svd_energy")
    assert missing([job(row="table1/svd", experiment="table1", seed=7)], conf) == [
        ("table1/svd", ()),
        ("svd_energy", ("any",)),
    ]


def test_a_group_is_known_by_its_target_or_its_file(conf: Path, job: Callable) -> None:
    write(conf, "rank: uniform,energy\nmodel: small,large,huge")
    (conf / "model").mkdir()
    for name, depth in (("small", 20), ("large", 56), ("huge", 110)):
        (conf / "model" / f"{name}.yaml").write_text(f"_target_: zoo.resnet\ndepth: {depth}\nweights: null\n")
    jobs = [
        job(experiment="table1", policy=p, model={"_target_": "zoo.resnet", "depth": d, "weights": "x"})
        for p, d in (("uniform", 20), ("uniform", 56), ("energy", 20), ("energy", 110))
    ]
    rows = with_missing(configurations(jobs), grid("table1", conf), conf)
    assert [row.label for row in rows if row.missing] == [
        "rank=uniform model=huge",
        "rank=energy model=large",
    ]
    assert [row.label for row in rows if not row.missing] == [
        "rank=uniform model.depth=20",
        "rank=uniform model.depth=56",
        "rank=energy model.depth=20",
        "rank=energy model.depth=110",
    ]


def test_a_group_that_cannot_be_told_is_said(conf: Path, job: Callable) -> None:
    write(conf, "model: small,large")
    rows = configurations([job(experiment="table1", model={"_target_": "zoo.resnet"})])
    assert unclear(rows, grid("table1", conf), conf) == [
        "table1: cannot tell which model (small, large) decompose is, it counts for all"
    ]


def test_a_file_of_options_is_read_once_for_all_rows(job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rank").mkdir()
    for name in ("alike", "other"):
        target = "_target_: lowrank_exp.rank.policies.uniform.uniform\n"
        (tmp_path / "rank" / f"{name}.yaml").write_text(f"{target}macs: {0.5 if name == 'alike' else 0.9}\n")
    read, asked = [], expected.yaml.safe_load
    monkeypatch.setattr(expected.yaml, "safe_load", lambda text: read.append(text) or asked(text))
    rows = configurations([job(experiment="e", epochs=number) for number in range(30)])
    found = with_missing(rows, Grid("e", {"rank": ("alike", "other")}), tmp_path)
    assert [row.missing for row in found] == [()] * 30 + [("any",)]
    assert len([text for text in read if "_target_" in text]) == 2
