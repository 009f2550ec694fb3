"""What a process that a cluster has started does: one job of a sweep; and to come back where it is asked to end."""

import pickle
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from lowrank_exp.command_line.flags import put_working_folder_last
from lowrank_exp.job.signals import Interrupted, end_with_the_parent, ending_at_boundaries, signals_raised

HELD_BACK = (signal.SIGUSR2, signal.SIGTERM)  # until there is somebody who hears them


class JobNotEndedError(Exception):
    """A job of a sweep has not come to its end: it was interrupted, or its process was lost."""


@dataclass(frozen=True)
class SweepJob:
    """One job, as it is sent: submitit calls it in the process that is to run it.

    `SIGUSR2` asks it to end; it comes to its next boundary or, where none comes within `patience` seconds, ends at
    once, and is queued again with the same overrides. So is one that gets a signal to end while `still_wanted()`.
    """

    number: int
    overrides: Sequence[str]
    config: DictConfig
    context: HydraContext
    task: TaskFunction
    patience: float
    still_wanted: Callable[[], bool]
    singletons: Mapping[type, Any] = field(default_factory=Singleton.get_state)

    def __call__(self) -> JobReturn:
        queue_again = signal.getsignal(signal.SIGUSR2)  # submitit's, which ends the process unless it refuses
        end_with_the_parent()
        try:
            with signals_raised(), ending_at_boundaries(signal.SIGUSR2, self.patience):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
                return sendable(self.run())
        except Interrupted as interrupted:
            told = str(interrupted)
            print(told, flush=True)
            with _signals_held_back():
                if callable(queue_again) and (interrupted.number == signal.SIGUSR2 or self.still_wanted()):
                    from submitit.core.utils import UncompletedJobError

                    try:
                        queue_again(signal.SIGUSR2, None)
                    except UncompletedJobError as refused:
                        return not_ended(f"{told} ({refused})")
            sys.exit(told)  # without a result: who has ended the job may queue it again

    def run(self) -> JobReturn:
        """The job as Hydra runs it."""
        put_working_folder_last()
        setup_globals()
        Singleton.set_state(dict(self.singletons))
        cfg = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = f"{cfg.hydra.job.name}_{self.number}", self.number
        HydraConfig.instance().set_config(cfg)
        return run_job(
            hydra_context=self.context,
            config=cfg,
            task_function=self.task,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def checkpoint(self) -> Any:
        """What submitit queues again: the same, which goes on from the files in its folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """For this process and those that it starts: SLURM asks all processes of a job to end, those of `scontrol` too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def python_that_waits_for_signals() -> str:
    """A command line that is Python to submitit: a signal to end that comes while it starts does not end it, but waits.

    SLURM sends its own up to a minute early.
    """
    numbers = ", ".join(str(int(number)) for number in HELD_BACK)
    code = (
        f"import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [{numbers}]); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    return shlex.join([sys.executable, "-ISc", code])


def not_ended(reason: str) -> JobReturn:
    """What a launcher gives in the place of a result that has not come."""
    return JobReturn(status=JobStatus.FAILED, _return_value=JobNotEndedError(reason))


def sendable(ended: JobReturn) -> JobReturn:
    """A job's end as another process can read it: errors that cannot be pickled are told in words."""
    try:
        pickle.loads(pickle.dumps(ended._return_value))
    except Exception:
        error = ended._return_value
        ended._return_value = JobNotEndedError(f"{type(error).__name__}: {error}")
    return ended
