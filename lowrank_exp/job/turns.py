"""The jobs of a sweep one after the other, or side by side, where other processes may run the same sweep."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction
from omegaconf import DictConfig, open_dict

from lowrank_exp.files.exclusion import is_held
from lowrank_exp.job.ends import Jobs, Names, names_of, naming, told_apart
from lowrank_exp.job.signals import Interrupted
from lowrank_exp.job.taking import HeldError, Taking, taken

LONGEST = 2.0  # seconds between two looks at what others hold

log = logging.getLogger(__name__)


def run_in_turn(launcher: Launcher, jobs: Jobs, first: int) -> list[JobReturn]:
    """Run the jobs in this process: always the first that no other process holds; at the end wait for the others.

    In the place of Hydra's own launcher, which would wait at the first job that is held.

    Args:
        launcher: Hydra's own.
        jobs: the overrides of each.
        first: the number of the first one.
    """
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    folder = Path(str(launcher.config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    log.info(f"Launching {len(jobs)} jobs locally")
    ended: dict[int, JobReturn] = {}
    waits: dict[int, Path | None] = dict.fromkeys(range(len(jobs)))
    names = told_apart(jobs)
    with taken(Taking.from_now(folder, phases=True)), naming(names_of(jobs, first)):
        while waits:
            number = _next_free(waits)
            try:
                end = _run(launcher, jobs[number], first + number)
            except Interrupted as interrupted:
                if interrupted.job is not None:
                    interrupted.not_run = [names[other] for other in waits if other != number]
                raise
            configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
            if _is_held(end):
                lock = waits[number] = end._return_value.lock
                log.info(f"\t#{first + number} later: another process holds {_held_name(lock)}")
            else:
                ended[number] = end
                del waits[number]
    return [ended[number] for number in range(len(jobs))]


def run_side_by_side(launch: Callable[[Jobs, int], Sequence[JobReturn]], jobs: Jobs, first: int) -> list[JobReturn]:
    """Run the jobs as `launch` does; those that another process holds again, when they are free.

    Where a process that runs jobs is ended from outside, the jobs go on one at a time, each in a process of its own:
    finished ones answer at once, and the one that cannot live is one failed job.

    Args:
        launch: takes jobs and the number of the first; its task is a `Leaving`.
        jobs: the overrides of each.
        first: the number of the first one.
    """
    try:
        ended = list(launch(jobs, first))
    except BrokenExecutor:
        log.info("a process that ran jobs was ended from outside, often for want of memory: now one job at a time")
        ended = [_run_alone(launch, job, first + number) for number, job in enumerate(jobs)]
    while waits := {
        n: end._return_value.lock for n, end in enumerate(ended) if isinstance(end._return_value, HeldError)
    }:
        _next_free(waits)
        free = [number for number, lock in waits.items() if not is_held(lock)]
        for number, end in zip(free, launch([jobs[number] for number in free], first) if free else (), strict=True):
            ended[number] = end
    return ended


def _run_alone(launch: Callable[[Jobs, int], Sequence[JobReturn]], job: Sequence[str], number: int) -> JobReturn:
    """One job in a process of its own; that this has not lived is how the job has ended."""
    try:
        (end,) = launch([job], number)
    except BrokenExecutor as error:
        end = JobReturn(overrides=list(job), status=JobStatus.FAILED)
        end.return_value = error
    return end


class Leaving:
    """A task that leaves jobs to other processes, and knows their names; it goes to a launcher's own processes."""

    def __init__(self, task: TaskFunction, taking: Taking, names: Names) -> None:
        self.task, self.taking, self.names = task, taking, names

    def __call__(self, cfg: DictConfig) -> Any:
        with taken(self.taking), naming(self.names):
            return self.task(cfg)


def _next_free(waits: dict[int, Path | None]) -> int:
    """The first job that nobody is known to hold, as soon as there is one."""
    pause = 0.1
    while True:
        for number, lock in waits.items():
            if lock is None or not is_held(lock):
                return number
        if pause == 0.1:
            log.info(f"waiting for other processes, which run the last {len(waits)} jobs")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def _is_held(end: JobReturn) -> bool:
    return isinstance(end._return_value, HeldError)


def _held_name(lock: Path) -> str:
    return lock.parent.name if lock.name == ".lock" else lock.stem


def _run(launcher: Launcher, overrides: Sequence[str], number: int) -> JobReturn:
    cfg = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    return run_job(
        hydra_context=launcher.hydra_context,
        config=cfg,
        task_function=launcher.task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
