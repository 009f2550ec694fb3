"""Times of prepared networks: medians of repeated passes, alone or several in turn."""

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lowrank_exp.checks import positive
from lowrank_exp.machine.beside import others_beside
from lowrank_exp.runtime.base import Prepared

LEAST = 5  # passes that are timed, however long they take
TURNS = 10  # in which passes are spread over the time, where networks are timed in turn


@dataclass(frozen=True)
class Timing:
    """Times of forward passes.

    Attributes:
        median_ms: milliseconds of one pass.
        minimum_ms: of the fastest one.
        spread: the middle half of the passes (their interquartile range) over the median.
        passes: how many were timed.
        busy_beside: the share of the machine that others used meanwhile; None where it cannot be told.
    """

    median_ms: float
    minimum_ms: float
    spread: float
    passes: int
    busy_beside: float | None


def time_passes(prepared: Prepared, *, seconds: float = 0.2) -> Timing:
    """Times of passes for about `seconds`, at least five, after a warm-up.

    Raises:
        ValueError: `seconds` is not a positive number.
    """
    positive("seconds", seconds)
    others = others_beside()
    with prepared.held(), _no_collection():
        passes = _passes_in(seconds, _warm_up(prepared, seconds))
        times = [_time_pass(prepared) for _ in range(passes)]
    return _summed_up(times, others())


def time_interleaved(prepared: Mapping[str, Prepared], *, seconds: float = 0.2) -> dict[str, Timing]:
    """Times of several networks that are passed through in turn, so that a drift of the machine hits all alike.

    Each gets about `seconds`, and at least five passes, in up to ten turns; the first pass of each turn is not counted:
    it finds the caches, and the threads of another runtime, as the other network has left them.

    Raises:
        ValueError: `seconds` is not a positive number.
    """
    positive("seconds", seconds)
    others = others_beside()
    passes = {}
    for name, network in prepared.items():
        with network.held():
            passes[name] = _passes_in(seconds, _warm_up(network, seconds))
    times: dict[str, list[float]] = {name: [] for name in prepared}
    turns = min([TURNS, *passes.values()])
    with _no_collection():
        for turn in range(turns):
            for name, network in prepared.items():
                share = passes[name] * (turn + 1) // turns - len(times[name])
                with network.held():
                    network.run()
                    times[name] += [_time_pass(network) for _ in range(share)]
    busy = others()
    return {name: _summed_up(of, busy) for name, of in times.items()}


def _warm_up(prepared: Prepared, seconds: float) -> float:
    """Pass until a tenth of `seconds` is over, at least twice, and give the seconds of the fastest pass."""
    fastest, end = _time_pass(prepared), time.perf_counter() + seconds / 10
    while True:
        fastest = min(fastest, _time_pass(prepared))
        if time.perf_counter() >= end:
            return fastest / 1e3


def _passes_in(seconds: float, one: float) -> int:
    return max(LEAST, round(seconds / max(one, 1e-9)))


def _time_pass(prepared: Prepared) -> float:
    start = time.perf_counter_ns()
    prepared.run()
    return (time.perf_counter_ns() - start) / 1e6


def _summed_up(times: list[float], busy_beside: float | None) -> Timing:
    low, median, high = np.percentile(times, [25, 50, 75]).tolist()
    return Timing(median, min(times), (high - low) / median, len(times), busy_beside)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Inside, Python does not look for cycles of garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
