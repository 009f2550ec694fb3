import contextlib
import gc

import pytest

from lowrank_exp.runtime import Prepared, time_interleaved, time_passes


class Clock:
    """Stands still unless it is told."""

    def __init__(self):
        self.ns = 0

    def perf_counter_ns(self):
        return self.ns

    def perf_counter(self):
        return self.ns / 1e9


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("lowrank_exp.runtime.timing.time", clock)
    return clock


class Busy(Prepared):
    """Takes the next of `milliseconds` for a pass, the last of them for ever, and writes down its passes."""

    def __init__(self, clock, name, *milliseconds, log=None):
        self.clock, self.name, self.milliseconds = clock, name, list(milliseconds)
        self.log = [] if log is None else log
        self.conditions, self.inside, self.seen = {}, False, []

    def __call__(self, x):
        return x

    @contextlib.contextmanager
    def held(self):
        self.inside = True
        yield
        self.inside = False

    def run(self):
        self.log.append(self.name)
        self.seen.append((self.inside, gc.isenabled()))
        self.clock.ns += int(1e6 * (self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]))


def test_the_median_minimum_and_spread_are_those_of_the_passes_after_the_warm_up(clock):
    busy = Busy(clock, "a", 60, 50, 4, 5, 3, 8, 16, 1000)  # two passes to warm up, and at least five
    timing = time_passes(busy, seconds=0.1)
    assert (timing.median_ms, timing.minimum_ms, timing.passes) == (5.0, 3.0, 5)
    assert timing.spread == (8 - 4) / 5
    assert len(busy.log) == 7
    assert set(busy.seen) == {(True, False)}
    assert gc.isenabled()
    assert timing.busy_beside is None or 0 <= timing.busy_beside <= 1


def test_a_warm_up_takes_a_tenth_of_the_time_and_the_passes_fill_the_rest(clock):
    busy = Busy(clock, "a", 9, 2)
    assert time_passes(busy, seconds=0.2).passes == 100
    assert len(busy.log) == 1 + 10 + 100


def test_networks_take_turns_whose_first_pass_is_not_counted(clock):
    log = []
    both = {"slow": Busy(clock, "slow", 5, log=log), "fast": Busy(clock, "fast", 1, log=log)}
    times = time_interleaved(both, seconds=0.04)
    assert {name: (of.median_ms, of.minimum_ms, of.passes) for name, of in times.items()} == {
        "slow": (5.0, 5.0, 8),
        "fast": (1.0, 1.0, 40),
    }
    warm_up = ["slow"] * 2 + ["fast"] * 5
    assert log == warm_up + (["slow"] * 2 + ["fast"] * 6) * 8
    assert {inside for busy in both.values() for inside, _ in busy.seen} == {True}
    log.clear()
    both = {"a": Busy(clock, "a", 2, log=log), "b": Busy(clock, "b", 1, log=log)}
    assert [of.passes for of in time_interleaved(both, seconds=0.05).values()] == [25, 50]
    turns = [name for name, before in zip(log, [None, *log], strict=False) if name != before]
    assert turns == ["a", "b"] * 11  # the warm-up, and ten turns


def test_time_that_is_not_a_number_above_0_is_refused(clock):
    for seconds in (0, -1, float("nan"), "1"):
        with pytest.raises(ValueError, match=r"seconds=.* is not a positive number"):
            time_passes(Busy(clock, "a", 1), seconds=seconds)
        with pytest.raises(ValueError, match=r"seconds=.* is not a positive number"):
            time_interleaved({"a": Busy(clock, "a", 1)}, seconds=seconds)
