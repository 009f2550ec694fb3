"""What has timed a network, in words: times of different runtimes, threads or batch sizes are not alike."""

from collections.abc import Mapping

from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.files.runtime_words import runtime_in_words
from lowrank_exp.report.quantities import dense_and_compressed

FORMER = "torch"  # what results of versions before there were several were timed by: the network as it is


def timed_by(result: Result, phase: str | None = None) -> str:
    """The runtime, its version and threads, and the batch size of the latency after a phase, the last one by default.

    Empty where no time was measured.

    >>> runtime = {"name": "eager", "threads": 1}
    >>> phase = PhaseResult("train", latency_ms=2.0, latency=[{"batch_size": 8}], runtime=runtime)
    >>> timed_by(Result("ok", "0" * 16, None, None, 0, "train", {}, [phase]))
    'eager, 1 thread, batch 8'
    """
    _, last = dense_and_compressed(result, phase)
    if last.latency_ms is None:
        return ""
    runtime = last.runtime or former_runtime(result)
    return f"{runtime_in_words(runtime)}, batch {_batch_size(result, last)}"


def former_runtime(result: Result) -> Mapping:
    """What timed the phases of a result that does not tell its runtime."""
    versions = result.environment.get("versions")
    version = versions.get("torch") if isinstance(versions, Mapping) else None
    return {"name": FORMER, "version": version, "threads": result.environment.get("threads")}


def _batch_size(result: Result, phase: PhaseResult) -> object:
    """The batch size of `latency_ms`; results of earlier versions have it in their configuration alone."""
    if phase.latency:
        return phase.latency[0].get("batch_size")
    settings = result.config.get("latency")
    return settings.get("batch_size", "not recorded") if isinstance(settings, Mapping) else "not recorded"
