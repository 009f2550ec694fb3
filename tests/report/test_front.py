"""Which networks are on the front, and which one is to be taken."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.front import on_front
from lowrank_exp.report.table import table
from lowrank_exp.report.verdict import Pick, told, verdict


def test_no_other_is_as_accurate_and_cheaper() -> None:
    nan = math.nan
    cases = [
        ([], [], []),
        ([1.0], [0.5], [True]),
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.6], [True, False, True]),
        ([2.0, 1.0, 1.0], [0.9, 0.9, 0.8], [False, True, False]),
        ([1.0, 1.0], [0.5, 0.5], [True, True]),
        ([nan, 1.0, 2.0], [0.9, 0.5, nan], [False, True, False]),
    ]
    for costs, accuracies, expected in cases:
        assert on_front(costs, accuracies) == expected


def rows(job: Callable) -> list:
    """The dense network has 90 %; all take 3 ms of 4."""
    found = [
        job(row=name, ratio=ratio, accuracy=accuracy, policy=policy)
        for name, ratio, accuracy, policy in (
            ("best", 0.5, 0.901, "a"),
            ("half", 0.4, 0.896, "b"),
            ("one", 0.3, 0.891, "c"),
            ("far", 0.1, 0.80, "d"),
            ("dear", 1.2, 0.90, "e"),
        )
    ]
    return [
        replace(one, phases=[one.phases[0], replace(one.phases[1], latency_ms=ms)])
        for one, ms in zip(found, (3.0, 3.5, 3.9, 1.0, 4.5), strict=True)
    ]


def picked(results: list) -> list[tuple]:
    picks = verdict(table(configurations(results)))
    return [(one.points, one.cost, one.label) for one in picks]


def test_the_cheapest_within_a_tolerance_is_taken(job: Callable) -> None:
    assert picked(rows(job)) == [
        (0.5, "latency_ms", "best"),
        (0.5, "macs", "half"),
        (1.0, "latency_ms", "best"),
        (1.0, "macs", "one"),
    ]


def test_what_a_pick_says(job: Callable) -> None:
    by_time, by_macs, *_ = verdict(table(configurations(rows(job))))
    way = "torch 2.15.0, 2 threads, batch 1"
    assert by_time.text == f"1.33 times as fast (3 ms instead of 4; {way}), accuracy +0.10 points"
    assert by_macs.text == "40.0 % of the MACs, accuracy -0.40 points"
    assert (by_macs.ratio, by_macs.change, by_macs.now, by_macs.dense) == pytest.approx((0.4, -0.4, 4e5, 1e6))
    assert told(verdict(table(configurations(rows(job))))) == (
        "within 0.5 points: by time best (1.33 times as fast, +0.10 points), by MACs half (40.0 % of the MACs, -0.40 "
        "points); within 1 point: by time best (1.33 times as fast, +0.10 points), by MACs one (30.0 % of the MACs, "
        "-0.90 points)"
    )


def test_a_control_a_missed_target_and_a_dearer_network_are_not_taken(job: Callable) -> None:
    missed = replace(rows(job)[1], status="missed")
    control = replace(rows(job)[2], control={"name": "from_scratch", "of": "0" * 16})
    (by_time, by_macs, *_) = verdict(table(configurations([missed, control, rows(job)[4]])))
    assert by_time.place is None
    assert by_macs.text == "no network with fewer MACs is within 0.5 points"
    far = verdict(table(configurations([rows(job)[3], rows(job)[4]])))
    assert far[1].text == "no network with fewer MACs is within 0.5 points; the nearest is far, -10.00 points"
    assert told(far) == "within 0.5 points: by time none, by MACs none; within 1 point: the same"


def test_times_of_different_ways_are_not_compared(job: Callable) -> None:
    def by(result: object, name: str) -> object:
        last = replace(result.phases[1], runtime={"name": name}, latency=[{"batch_size": 1}])
        return replace(result, phases=[result.phases[0], last])

    best, half, one, *_ = rows(job)
    picks = verdict(table(configurations([by(best, "eager"), by(half, "onnx"), by(one, "onnx")])))
    assert [(pick.label, pick.way) for pick in picks if pick.cost == "latency_ms"] == [("half", "onnx, batch 1")] * 2


def test_nothing_is_picked_where_nothing_was_measured(job: Callable) -> None:
    assert verdict(table(configurations([replace(job(), dense=None)]))) == []
    assert told([]) == ""
    assert Pick(0.5, "macs", None, why="none").text == "none"
