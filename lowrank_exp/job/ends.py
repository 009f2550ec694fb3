"""The jobs of a sweep in words: what tells them apart, how each ended, and what it has reached. No torch here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from lowrank_exp.command_line.mistakes import explained
from lowrank_exp.files.results import RESULT, PhaseResult, Result
from lowrank_exp.job.result_tables import budgets_of

Jobs = Sequence[Sequence[str]]  # the overrides of each
Names = Mapping[tuple[str, ...], str]  # by the overrides

OF_THE_SWEEP = ("sweeper", "launcher")  # keys that say nothing of a job
COSTS = {"macs": "{:,} MACs", "weights": "{:,} weights", "bytes": "{:,} bytes", "latency_ms": "{:.3f} ms"}

_names: list[Names] = []  # of the sweep that this process runs jobs of; none: of no sweep


def told_apart(jobs: Jobs) -> list[str]:
    """The overrides of every job, without those that all of them have.

    >>> told_apart([["seed=0", "rank=energy"], ["seed=1", "rank=energy"]])
    ['seed=0', 'seed=1']
    """
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    own = [[one for one in filter_overrides(overrides) if one not in shared] for overrides in jobs]
    return [" ".join(one for one in of if not one.lstrip("+").startswith(OF_THE_SWEEP)) for of in own]


def names_of(jobs: Jobs, first: int) -> Names:
    """The number of every job, the first of which has `first`, and what tells it apart, by its overrides."""
    named = enumerate(zip(jobs, told_apart(jobs), strict=True), start=first)
    return {tuple(filter_overrides(job)): f"#{number} {name}".rstrip() for number, (job, name) in named}


@contextmanager
def naming(names: Names) -> Iterator[None]:
    """Within the block this process runs jobs of a sweep, which have these names."""
    _names.append(names)
    try:
        yield
    finally:
        _names.pop()


def name_of_job(overrides: Sequence[str]) -> str | None:
    """The name of a job of the sweep that this process runs; None where it runs none, or not this job's.

    >>> with naming(names_of([["seed=0", "rank=energy"], ["seed=1", "rank=energy"]], 3)):
    ...     name_of_job(["seed=1", "rank=energy"])
    '#4 seed=1'
    """
    return _names[-1].get(tuple(overrides)) if _names else None


def tell_result(result: Result) -> str:
    """What a job has reached: accuracy on test images, and what its budgets are of, beside the dense network's.

    >>> from lowrank_exp.files.results import PhaseResult
    >>> phases = [PhaseResult("train", 0.75, macs=4_000), PhaseResult("finetune", 0.5, macs=1_000)]
    >>> result = Result("ok", "0" * 16, None, None, 0, "decompose", {}, phases, dense=phases[0])
    >>> tell_result(result)
    'test 50.00 %, dense 75.00 %; 1,000 MACs, 25.00 %'
    """
    if not result.phases:
        return result.status
    last, words = result.phases[-1], [result.status] if result.status != "ok" else []
    dense = result.dense if result.dense is not None and result.dense.name != last.name else PhaseResult("")
    if last.accuracy is not None:
        beside = "" if dense.accuracy is None else f", dense {100 * dense.accuracy:.2f} %"
        words.append(f"test {100 * last.accuracy:.2f} %{beside}")
    for cost in budgets_of(result.config) or ["macs"]:
        now, before = getattr(last, cost), getattr(dense, cost)
        if now is not None:
            words.append(COSTS[cost].format(now) + (f", {100 * now / before:.2f} %" if before else ""))
    return "; ".join(words) or result.status


@contextmanager
def told_once() -> Iterator[None]:
    """Within the block Hydra raises the error of a job without a line of its own: who catches it tells it."""
    hydras = JobReturn.return_value

    def raised(end: JobReturn) -> object:
        if end.status == JobStatus.FAILED:
            raise end._return_value
        return hydras.__get__(end)

    setattr(JobReturn, "return_value", property(raised, hydras.__set__))  # noqa: B010 - pyright takes no property
    try:
        yield
    finally:
        setattr(JobReturn, "return_value", hydras)  # noqa: B010


def told(end: JobReturn) -> str:
    """How a job ended, in words: what it has reached, where its result can be read.

    >>> told(JobReturn(status=JobStatus.COMPLETED))
    'ended well'
    """
    if end.status != JobStatus.COMPLETED:
        return explained(end._return_value)
    if end.hydra_cfg is None:
        return "ended well"
    try:
        return tell_result(Result.read(Path(end.hydra_cfg.hydra.runtime.output_dir) / RESULT))
    except (OSError, ValueError):  # a job that was to leave none, as with stop_after
        return "ended well"


def tell_ends(jobs: Jobs, first: int, ends: Sequence[JobReturn]) -> list[str]:
    """A line on every job that has not ended well, the first of which has the number `first`, and one on all.

    >>> failed = JobReturn(status=JobStatus.FAILED, _return_value=ValueError("no"))
    >>> tell_ends([["seed=0"], ["seed=1"]], 0, [JobReturn(status=JobStatus.COMPLETED), failed])
    ['#1 seed=1: no', '1 of 2 jobs ended well']
    """
    names = names_of(jobs, first)
    failed = [(job, end) for job, end in zip(jobs, ends, strict=True) if end.status != JobStatus.COMPLETED]
    lines = [f"{names[tuple(filter_overrides(job))]}: {told(end).splitlines()[0]}" for job, end in failed]
    return [*lines, f"{len(jobs) - len(failed)} of {len(jobs)} jobs ended well"]
