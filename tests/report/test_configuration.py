"""Grouping by configuration and the labels of rows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from lowrank_exp.files.results import deciding, digest
from lowrank_exp.report import configuration
from lowrank_exp.report.configuration import configurations, differences


def test_seeds_make_one_row_and_other_keys_do_not(job: Callable) -> None:
    rows = configurations([job(seed=s, ratio=r) for r in (0.5, 0.3) for s in (2, 0, 1)])
    assert [row.label for row in rows] == ["macs=0.5", "macs=0.3"]
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
        "uniform macs=0.5",
        "uniform macs=0.3",
        "energy macs=0.5",
        "energy macs=0.3",
    ]
    assert [(row.series, row.policy) for row in rows[1:3]] == [
        ("decompose, channel_svd", "uniform"),
        ("decompose, channel_svd", "energy"),
    ]


def test_results_of_earlier_versions_are_told_apart_by_their_keys(job: Callable) -> None:
    rows = configurations([job(policy=p, ratio=r, choices={}) for p, r in (("uniform", 0.5), ("energy", 0.3))])
    assert [row.label for row in rows] == [
        "uniform macs=0.5",
        "energy macs=0.3",
    ]
    assert [row.series for row in rows] == ["decompose"] * 2


def test_groups_that_a_job_does_not_use_are_no_difference(job: Callable) -> None:
    trained = job(choices={"method": "train"})
    del trained.config["rank"], trained.config["decomposition"]
    rows = configurations([trained, job(), job(ratio=0.3)])
    assert [row.label for row in rows] == [
        "train",
        "decompose macs=0.5",
        "decompose macs=0.3",
    ]


def test_row_names_are_labels_and_clashes_are_told_apart(job: Callable) -> None:
    named = configurations([job(row="svd", experiment="t"), job(row="energy", experiment="t", policy="energy")])
    assert [row.label for row in named] == ["svd", "energy"]
    clash = configurations([job(row="svd", epochs=1), job(row="svd", epochs=90)])
    assert [row.label for row in clash] == ["svd epochs=1", "svd epochs=90"]


def test_a_lone_configuration_has_its_methods_name(job: Callable) -> None:
    assert [row.label for row in configurations([job(), job(seed=1)])] == ["decompose"]


def test_of_many_differing_keys_those_that_tell_rows_apart_are_named(job: Callable) -> None:
    rows = configurations([job(**{f"key{n}": value for n in range(5)}) for value in (1, 2)])
    assert [row.label for row in rows] == ["key0=1 key1=1 key2=1", "key0=2 key1=2 key2=2"]
    settings = [{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, {"a": 2, "b": 2, "c": 2, "d": 1, "e": 1}]
    settings += [{**settings[1], "d": 2}, {**settings[1], "e": 2}]
    rows = configurations([job(row="svd", **{f"key_{name}": value for name, value in one.items()}) for one in settings])
    assert [row.label for row in rows] == [
        "svd key_a=1 key_d=1 key_e=1",
        "svd key_a=2 key_d=1 key_e=1",
        "svd key_a=2 key_d=2 key_e=1",
        "svd key_a=2 key_d=1 key_e=2",
    ]


def test_rows_of_one_option_are_told_apart_by_what_lies_inside_it(job: Callable) -> None:
    jobs = [job()]
    for energy in (0.9, 0.8):
        jobs.append(job(policy="energy", ratio=0.3))
        jobs[-1].config["rank"]["energy"] = energy
    rows = configurations([*jobs[:1], *(replace(one, fingerprint=str(k)) for k, one in enumerate(jobs[1:]))])
    assert [row.label for row in rows] == [
        "uniform macs=0.5",
        "energy energy=0.9 macs=0.3",
        "energy energy=0.8 macs=0.3",
    ]


def test_what_a_class_alone_has_is_not_part_of_its_name(job: Callable) -> None:
    """Settings of one class say nothing beside its name, unless rows of this class differ in them."""
    spatial = {"_target_": "own.SpatialSVD", "order": "vertical_first"}
    channel = {"_target_": "own.ChannelSVD", "whole": True}
    rows = configurations([job(parts={"conv": one}) for one in (spatial, channel)])
    assert [row.label for row in rows] == ["SpatialSVD", "ChannelSVD"]
    both = [spatial, channel, {**spatial, "order": "horizontal_first"}]
    rows = configurations([job(parts={"conv": one}) for one in both])
    assert [row.label for row in rows] == [
        "SpatialSVD order=vertical_first",
        "ChannelSVD",
        "SpatialSVD order=horizontal_first",
    ]


def test_network_and_data_have_names(job: Callable) -> None:
    folder = {"_target_": "own.ImageFolder", "name": None, "root": "/there/cifar10"}
    kinds = [
        ({"model": "resnet20", "data": "image_folder"}, folder),
        ({"model": "resnet20", "data": "image_folder"}, {**folder, "name": "pictures"}),
        ({"model": "resnet20", "data": "digits"}, {"_target_": "own.Digits", "root": "/there/cache"}),
        ({}, {"_target_": "own.Digits"}),
    ]
    rows = [configurations([job(choices=c, data=d, model={"_target_": "own.vgg16"})])[0] for c, d in kinds]
    assert [(row.network, row.data) for row in rows] == [
        ("resnet20", "cifar10"),
        ("resnet20", "pictures"),
        ("resnet20", "digits"),
        ("vgg16", "Digits"),
    ]


def test_long_values_are_shown_from_where_they_differ(job: Callable) -> None:
    rows = configurations([job(ranks="x" * 60 + end) for end in ("a", "bc")])
    assert [row.label for row in rows] == ["ranks=…a", "ranks=…bc"]


def test_keys_are_as_short_as_they_are_clear(job: Callable) -> None:
    fits = [
        {"training": {"epochs": 1, "lr": lr}, "finetune": {"epochs": epochs}} for lr in (0.1, 1) for epochs in (2, 3)
    ]
    assert [row.label for row in configurations([job(**one) for one in fits])] == [
        f"lr={lr} finetune.epochs={epochs}" for lr in ("0.1", "1") for epochs in (2, 3)
    ]
    options = [
        {"rank": "fastest", "decomposition": name, "reconstruct": fit}
        for name, fit in (("cp", "none"), ("fastest", "relu"))
    ]
    assert [row.label for row in configurations([job(choices=one, k=one["reconstruct"]) for one in options])] == [
        "cp reconstruct=none k=none",
        "fastest relu k=relu",
    ]


def test_a_variant_is_what_series_and_budget_do_not_say(job: Callable) -> None:
    jobs = [
        job(
            row=f"{policy}_{fit}",
            ratio=ratio,
            policy=policy,
            choices={"rank": policy, "reconstruct": fit},
            reconstruct={"_target_": fit},
        )
        for policy in ("uniform", "energy")
        for fit in ("whitened", "relu")
        for ratio in (0.5, 0.3)
    ]
    rows = configurations(jobs)
    assert [row.label for row in rows[:2]] == ["uniform_whitened macs=0.5", "uniform_whitened macs=0.3"]
    assert [row.variant for row in rows] == ["whitened", "whitened", "relu", "relu"] * 2


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
