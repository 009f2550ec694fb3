"""By what a phase measures times, where it chooses by them: a runtime, with so many threads and images."""

from collections.abc import Callable, Mapping
from typing import Any

from lowrank_exp.rank.times.clock import Clock
from lowrank_exp.runtime import runtime_named

DEFAULT = "eager"  # where the configuration names no runtime


def bounds_time(rank: Callable) -> bool:
    """Whether `rank`, a partial of `lowrank_exp.rank.allocate`, has a budget of time.

    >>> from functools import partial
    >>> bounds_time(partial(sorted, latency_ms=4)), bounds_time(partial(sorted, latency=None)), bounds_time(sorted)
    (True, False, False)
    """
    options = getattr(rank, "keywords", {})
    return any(options.get(name) is not None for name in ("latency", "latency_ms"))


def clock_of(latency: Mapping[str, Any], **options: Any) -> Clock:
    """What measures by a configuration's `latency`: its runtime (eager where it names none) and its first batch size.

    Args:
        latency: `runtime`, `threads` and `batch_size`, each of which may be missing.
        options: of the clock beside these.

    Raises:
        ValueError: a runtime that is not known, or not installed.

    >>> clock_of({"batch_size": [8, 1], "threads": 1}).conditions["batch_size"]
    8
    """
    sizes = latency.get("batch_size", 1)
    runtime = runtime_named(latency.get("runtime") or DEFAULT, threads=latency.get("threads"))
    return Clock(runtime=runtime, batch_size=sizes if isinstance(sizes, int) else sizes[0], **options)
