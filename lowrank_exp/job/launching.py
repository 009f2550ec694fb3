"""The jobs of a sweep given to the launcher that the configuration names, and what a signal left of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate

from lowrank_exp.job.signals import Interrupted


@contextmanager
def launched() -> Iterator[None]:
    """Within the block a sweep is launched by the `launcher` of its configuration; where that is none, by Hydra's own.

    A signal that ends the latter carries the jobs that would have followed, see `Interrupted.not_run`. Hydra takes
    launchers from packages called `hydra_plugins` alone, and tells nobody which jobs it launches: so its own one hands
    them on.
    """
    (basic,) = (kind for kind in Plugins.instance().discover(Launcher) if kind.__name__ == "BasicLauncher")
    launch = basic.launch

    def hand_on(self: Launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if self.config.launcher.get("_target_") is not None:
            chosen = instantiate(self.config.launcher)
            chosen.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
            return chosen.launch(job_overrides, initial_job_idx)
        try:
            return launch(self, job_overrides, initial_job_idx)
        except Interrupted as interrupted:
            if interrupted.job is not None:
                interrupted.not_run = told_apart(job_overrides)[interrupted.job + 1 - initial_job_idx :]
            raise

    basic.launch = hand_on
    try:
        yield
    finally:
        basic.launch = launch


def told_apart(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of every job, without those that all of them have.

    >>> told_apart([["seed=0", "rank=energy"], ["seed=1", "rank=energy"]])
    ['seed=0', 'seed=1']
    """
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [
        " ".join(override for override in filter_overrides(overrides) if override not in shared) for overrides in jobs
    ]
