"""The jobs of a sweep in words: what tells them apart, and how each ended."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from lowrank_exp.command_line.mistakes import explained

Jobs = Sequence[Sequence[str]]  # the overrides of each


def told_apart(jobs: Jobs) -> list[str]:
    """The overrides of every job, without those that all of them have.

    >>> told_apart([["seed=0", "rank=energy"], ["seed=1", "rank=energy"]])
    ['seed=0', 'seed=1']
    """
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [
        " ".join(override for override in filter_overrides(overrides) if override not in shared) for overrides in jobs
    ]


def told(end: JobReturn) -> str:
    """How a job ended, in words.

    >>> told(JobReturn(status=JobStatus.COMPLETED))
    'ended well'
    """
    return "ended well" if end.status == JobStatus.COMPLETED else explained(end._return_value)


def tell_ends(jobs: Jobs, first: int, ends: Sequence[JobReturn]) -> list[str]:
    """A line on every job, the first of which has the number `first`, and one on all.

    >>> tell_ends([["seed=0"], ["seed=1"]], 0, [JobReturn(status=JobStatus.COMPLETED)] * 2)
    ['#0 seed=0: ended well', '#1 seed=1: ended well', '2 of 2 jobs ended well']
    """
    named = enumerate(zip(told_apart(jobs), ends, strict=True), start=first)
    lines = [f"#{number} {name}: {told(end).splitlines()[0]}" for number, (name, end) in named]
    well = sum(end.status == JobStatus.COMPLETED for end in ends)
    return [*lines, f"{well} of {len(jobs)} jobs ended well"]
