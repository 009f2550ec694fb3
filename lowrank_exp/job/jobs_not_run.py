"""What a sweep launches, and what of it was not run when a signal ended it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, filter_overrides
from hydra.plugins.launcher import Launcher

from lowrank_exp.job.signals import Interrupted


@contextmanager
def rest_told() -> Iterator[None]:
    """Within the block a signal that ends a sweep carries the jobs that would have followed, see `Interrupted.not_run`.

    Hydra itself tells nobody which jobs it launches, so its launcher is listened to.
    """
    (launcher,) = (kind for kind in Plugins.instance().discover(Launcher) if kind.__name__ == "BasicLauncher")
    launch = launcher.launch

    def launched(self: Launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        try:
            return launch(self, job_overrides, initial_job_idx)
        except Interrupted as interrupted:
            if interrupted.job is not None:
                interrupted.not_run = told_apart(job_overrides)[interrupted.job + 1 - initial_job_idx :]
            raise

    launcher.launch = launched
    try:
        yield
    finally:
        launcher.launch = launch


def told_apart(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of every job, without those that all of them have.

    >>> told_apart([["seed=0", "rank=energy"], ["seed=1", "rank=energy"]])
    ['seed=0', 'seed=1']
    """
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [
        " ".join(override for override in filter_overrides(overrides) if override not in shared) for overrides in jobs
    ]
