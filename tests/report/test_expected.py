"""The jobs of a table, and what of them is missing."""

from collections.abc import Callable
from pathlib import Path

from lowrank_exp.command_line.tables import Table, read_table
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.expected import unclear, with_missing


def written(conf: Path, text: str) -> Table:
    (conf / "table" / "table1.yaml").write_text(text)
    return read_table(conf / "table" / "table1.yaml")


def missing(jobs: list, table: Table) -> list[tuple]:
    return [(row.label, row.missing) for row in with_missing(configurations(jobs), table)]


def test_rows_sweeps_and_seeds_are_axes(conf: Path) -> None:
    table = written(
        conf, "seeds: [0, 1]\nsweep: {rank.macs: [0.5], '++model.depth': [null, 3]}\nrows: {svd: {}, b: {}}"
    )
    assert table.axes == {
        "row": ["table1/svd", "table1/b"],
        "rank.macs": [0.5],
        "++model.depth": [None, 3],
        "seed": [0, 1],
    }


def test_a_key_that_decides_nothing_is_not_checked(conf: Path, job: Callable) -> None:
    table = written(conf, "sweep: {threads: [1, 2]}\nrows: {svd: {}}\nseeds: [0]")
    rows = [job(row="svd", experiment="table1")]
    assert unclear(configurations(rows), table) == [
        "table1: threads is not recorded in a configuration, its values are not checked"
    ]
    assert missing(rows, table) == [("svd", ())]


def test_missing_rows_and_seeds_in_the_order_of_the_table(conf: Path, job: Callable) -> None:
    table = read_table(conf / "table" / "table1.yaml")
    jobs = [job(row="svd_energy", experiment="table1", seed=1), job(row="extra", experiment="table1")]
    assert missing(jobs, table) == [("svd", (0, 1)), ("svd_energy", (0,)), ("extra", ())]


def test_a_failed_seed_is_not_missing(conf: Path, job: Callable) -> None:
    table = read_table(conf / "table" / "table1.yaml")
    jobs = [job(row=r, experiment="table1", seed=s, status="failed") for r in ("svd", "svd_energy") for s in (0, 1)]
    assert missing(jobs, table) == [("svd", ()), ("svd_energy", ())]


def test_rows_of_another_experiment_do_not_count(conf: Path, job: Callable) -> None:
    table = read_table(conf / "table" / "table1.yaml")
    jobs = [job(row="svd", experiment="other", seed=s) for s in (0, 1)]
    assert missing(jobs, table) == [("svd", (0, 1)), ("svd_energy", (0, 1)), ("svd", ())]


def test_numbers_are_compared_as_numbers(conf: Path, job: Callable) -> None:
    table = written(conf, "sweep: {rank.macs: [0.50, 3e-1, 0.2]}\nseeds: [0]")
    jobs = [job(experiment="table1", ratio=r) for r in (0.3, 0.5)]
    assert missing(jobs, table) == [("macs=0.5", ()), ("macs=0.3", ()), ("macs=0.2", (0,))]


def test_a_table_without_seeds_takes_any(conf: Path, job: Callable) -> None:
    table = written(conf, "rows: {svd: {}, svd_energy: {}}\nseeds: []")
    assert missing([job(row="svd", experiment="table1", seed=7)], table) == [("svd", ()), ("svd_energy", ("any",))]


def test_a_group_is_known_by_what_was_chosen(conf: Path, job: Callable) -> None:
    table = written(conf, "seeds: []\nsweep: {rank: [uniform, energy], model: [small, large, huge]}")
    chosen = (("uniform", "small", 20), ("uniform", "large", 56), ("energy", "small", 20), ("energy", "huge", 9))
    jobs = [
        job(
            experiment="table1", policy=p, choices={"rank": p, "model": m}, model={"_target_": "zoo.resnet", "depth": d}
        )
        for p, m, d in chosen
    ]
    rows = with_missing(configurations(jobs), table)
    assert [row.label for row in rows if row.missing] == ["huge uniform", "large energy"]
    assert [row.label for row in rows if not row.missing] == [
        "small uniform",
        "large uniform",
        "small energy",
        "huge energy",
    ]


def test_a_group_of_an_earlier_result_counts_for_all_and_that_is_said(conf: Path, job: Callable) -> None:
    table = written(conf, "seeds: []\nsweep: {rank: [uniform, energy]}")
    rows = configurations([job(experiment="table1", choices={})])
    assert unclear(rows, table) == ["table1: cannot tell which rank (uniform, energy) decompose is, it counts for all"]
    assert [(row.label, row.missing) for row in with_missing(rows, table)] == [("decompose", ())]
