"""Times of the same networks by several runtimes: those of every result, also of one that was timed again elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lowrank_exp.checks import is_finite
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.files.runtime_words import runtime_in_words
from lowrank_exp.report.quantities import dense_and_compressed
from lowrank_exp.report.timed_by import former_runtime

Times = dict[str, dict[str, tuple[float, float | None]]]  # way: fingerprint: milliseconds, of the dense network


def times_of(results: Sequence[Result], phase: str | None = None) -> Times:
    """Milliseconds after a phase (the last one by default) and of the dense network, by way of timing and fingerprint.

    A way is a runtime with its threads, a batch size, and a machine and device where results come from several. Of a
    job that was timed twice in one way the first counts.
    """
    places = {_place(result) for result in results}
    found: Times = {}
    for result in results:
        dense, now = dense_and_compressed(result, phase)
        of_dense = dict(_ways(result, dense))
        for way, time in _ways(result, now):
            full = way if len(places) == 1 else f"{way}, {', '.join(_place(result))}"
            found.setdefault(full, {}).setdefault(result.fingerprint, (time, of_dense.get(way)))
    return found


def _place(result: Result) -> tuple[str, str]:
    return str(result.environment.get("machine")), str(result.environment.get("device"))


def _ways(result: Result, phase: PhaseResult) -> Iterable[tuple[str, float]]:
    if phase.latency_ms is None:
        return
    runtime: Mapping[str, Any] = phase.runtime or former_runtime(result)
    sizes = phase.latency or [{"batch_size": "not recorded", "median_ms": phase.latency_ms}]
    for one in sizes:
        median = one.get("median_ms", phase.latency_ms if one is sizes[0] else None)
        if is_finite(median):
            yield f"{runtime_in_words(runtime)}, batch {one.get('batch_size')}", float(median)
