"""Grouping by configuration and the labels of rows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from lowrank_exp.files.results import deciding, digest
from lowrank_exp.report import configuration
from lowrank_exp.report.configuration import configurations, differences


def test_seeds_make_one_row_and_other_keys_do_not(job: Callable) -> None:
    rows = configurations([job(seed=s, ratio=r) for r in (0.5, 0.3) for s in (2, 0, 1)])
    assert [row.label for row in rows] == ["rank.macs=0.5", "rank.macs=0.3"]
    assert [[result.seed for result in row.finished] for row in rows] == [[0, 1, 2], [0, 1, 2]]
    config = deciding(job(ratio=0.3).config)
    config.pop("seed")
    assert rows[1].hash == digest(config)[:16]


def test_a_nested_seed_and_excluded_keys_do_not_split_a_row(job: Callable) -> None:
    jobs = [job(seed=s, data={"seed": s, "size": 32}, device=f"cuda:{s}", threads=s) for s in (0, 1)]
    assert [len(row.finished) for row in configurations(jobs)] == [2]


def test_a_swapped_group_is_named_once(job: Callable) -> None:
    rows = configurations([job(policy=p, ratio=r) for p in ("uniform", "energy") for r in (0.5, 0.3)])
    assert [row.label for row in rows] == [
        "rank=uniform rank.macs=0.5",
        "rank=uniform rank.macs=0.3",
        "rank=energy rank.macs=0.5",
        "rank=energy rank.macs=0.3",
    ]
    assert [row.series for row in rows[1:3]] == [
        "decompose, channel_svd, uniform",
        "decompose, channel_svd, energy",
    ]


def test_results_of_earlier_versions_are_told_apart_by_their_keys(job: Callable) -> None:
    rows = configurations([job(policy=p, ratio=r, choices={}) for p, r in (("uniform", 0.5), ("energy", 0.3))])
    assert [row.label for row in rows] == [
        "rank._target_=lowrank_exp.rank.policies.uniform.uniform rank.macs=0.5",
        "rank._target_=lowrank_exp.rank.policies.energy.energy rank.macs=0.3",
    ]
    assert [row.series for row in rows] == ["decompose"] * 2


def test_groups_that_a_job_does_not_use_are_no_difference(job: Callable) -> None:
    trained = job(choices={"method": "train"})
    del trained.config["rank"], trained.config["decomposition"]
    rows = configurations([trained, job(), job(ratio=0.3)])
    assert [row.label for row in rows] == [
        "method=train",
        "method=decompose rank.macs=0.5",
        "method=decompose rank.macs=0.3",
    ]


def test_row_names_are_labels_and_clashes_are_told_apart(job: Callable) -> None:
    named = configurations([job(row="svd", experiment="t"), job(row="energy", experiment="t", policy="energy")])
    assert [row.label for row in named] == ["svd", "energy"]
    clash = configurations([job(row="svd", epochs=1), job(row="svd", epochs=90)])
    assert [row.label for row in clash] == ["svd epochs=1", "svd epochs=90"]


def test_a_lone_configuration_has_its_methods_name(job: Callable) -> None:
    assert [row.label for row in configurations([job(), job(seed=1)])] == ["decompose"]


def test_many_differing_keys_end_in_the_hash(job: Callable) -> None:
    rows = configurations([job(**{f"key{n}": value for n in range(5)}) for value in (1, 2)])
    assert rows[0].label == f"key0=1 key1=1 key2=1 #{rows[0].hash[:6]}"
    assert rows[0].hash != rows[1].hash


def test_values_of_another_type_are_other_configurations(job: Callable) -> None:
    rows = configurations([job(keep=1), job(keep=[1]), job(keep=[1.0])])
    assert len({row.label for row in rows}) == 3


def test_one_job_found_twice_counts_once_and_a_repaired_one_is_ok(job: Callable) -> None:
    failed = job(status="failed", error="x")
    (row,) = configurations([failed, job(), job()])
    assert (len(row.finished), len(row.failed), row.status) == (1, 0, "ok")
    (again,) = configurations([job(), failed])
    assert again.status == "ok"


def test_repeated_groups_deeper_down_are_left_out() -> None:
    configs = [{"rank": {"macs": m}, "method": {"phases": {"f": {"rank": {"macs": m}}}}} for m in (0.5, 0.3)]
    assert differences(configs) == ["rank.macs"]


def test_the_status_of_a_row_is_the_worst_of_its_seeds(job: Callable) -> None:
    jobs = [job(seed=n, status=s) for n, s in enumerate(("ok", "missed", "interrupted", "failed"))]
    for last, status in enumerate(("ok", "missed", "interrupted", "failed"), start=1):
        (row,) = configurations(jobs[:last])
        assert (row.status, len(row.finished), len(row.failed)) == (status, min(last, 2), max(0, last - 2))
    (row,) = configurations(jobs[:2])
    assert replace(row, missing=(7,)).status == "missing"
    (again,) = configurations([job(status="interrupted"), job(status="missed"), job(status="failed")])
    assert (again.status, len(again.finished), len(again.failed)) == ("missed", 1, 0)


def test_labels_look_at_every_configuration_a_fixed_number_of_times(job: Callable, monkeypatch: pytest.MonkeyPatch):
    calls = []
    walked = configuration.leaves
    monkeypatch.setattr(configuration, "leaves", lambda *arguments: calls.append(0) or walked(*arguments))

    def looked_at(jobs: int) -> int:
        calls.clear()
        rows = configurations([job(ratio=0.2 + number / 1000) for number in range(jobs)])
        assert len({row.label for row in rows}) == jobs
        return len(calls)

    assert looked_at(40) == 2 * looked_at(20)
