"""What launchers by submitit have in common: send the jobs of a sweep, wait for all, say how each ended."""

import logging
import pickle
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lowrank_exp.job.ends import told, told_apart
from lowrank_exp.job.launchers.sweep_job import SweepJob, not_ended
from lowrank_exp.job.signals import Interrupted

FOLDER = "launched"  # below outputs: what is sent, what comes back, and what the jobs print
LAG = 60.0  # seconds in which another machine's file may not be seen
LOG_LINES = 5  # of a lost job that are shown

log = logging.getLogger(__name__)


@dataclass
class Sent:
    """A job on its way. `name`: its overrides; `gone`: since when it is known not to run any more, and as what."""

    work: SweepJob
    name: str
    handle: Any  # of submitit
    gone: tuple[float, str] | None = None


class Submitting(Launcher):
    """A launcher whose jobs are processes that live by themselves.

    Abstract: a subclass says how they are sent and looked after.
    """

    lag = LAG
    config: DictConfig
    context: HydraContext
    task: TaskFunction

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over what Hydra gives."""
        self.config, self.context, self.task = config, hydra_context, task_function

    @property
    @abstractmethod
    def patience(self) -> float:
        """Seconds in which a job that is asked to end may come to a boundary."""

    @abstractmethod
    def send(self, waiting: list[tuple[SweepJob, str]], running: int) -> list[Sent]:
        """Send some of the jobs that wait, which it takes from the list, where so many run."""

    @abstractmethod
    def look(self, sent: Sequence[Sent]) -> Mapping[str, str]:
        """Those of the jobs that do not run any more, by id, with a word for how they ended."""

    @abstractmethod
    def leave(self, sent: Sequence[Sent]) -> str:
        """The command is ended while these jobs run: end them too, or say how they go on."""

    @staticmethod
    def still_wanted() -> bool:
        """In a job that got a signal to end: whether the cluster would have it go on."""
        return False

    @property
    def folder(self) -> Path:
        """Where submitit keeps its files, one folder per job."""
        return Path(str(self.config.hydra.sweep.dir)).absolute() / FOLDER / "%j"

    def work(self, number: int, overrides: Sequence[str]) -> SweepJob:
        """A job as it is sent."""
        return SweepJob(number, list(overrides), self.config, self.context, self.task, self.patience, self.still_wanted)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Send all jobs and wait for them; one that is lost does not end the others."""
        if find_spec("submitit") is None:
            raise ValueError("this launcher needs submitit, which is not installed: pip install 'lowrank_exp[slurm]'")
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        works = [self.work(number, one) for number, one in enumerate(job_overrides, start=initial_job_idx)]
        ended = self.wait(list(zip(works, told_apart(job_overrides), strict=True)))
        returned = [ended[work.number] for work in works]  # and not what was sent for them to share
        well = sum(one.status == JobStatus.COMPLETED for one in returned)
        log.info(f"{well} of {len(works)} jobs ended well")
        return returned

    def wait(self, waiting: list[tuple[SweepJob, str]]) -> dict[int, JobReturn]:
        """How every job ended, by number; each is said as it ends."""
        running: list[Sent] = []
        ended: dict[int, JobReturn] = {}
        pause, looked = 1.0, time.monotonic()
        try:
            while waiting or running:
                running += self.send(waiting, len(running))
                time.sleep(0.2)
                if time.monotonic() - looked > pause:  # ever more seldom: to ask a cluster costs it something
                    self.note_gone(running)
                    pause, looked = min(1.5 * pause, 30.0), time.monotonic()
                for one in list(running):
                    if (end := self.read_end(one)) is not None:
                        running.remove(one)
                        ended[one.work.number] = end
                        log.info(f"#{one.work.number} {one.name}: {told(end)}")
        except (Interrupted, KeyboardInterrupt):
            log.info(self.leave(running))
            raise
        return ended

    def note_gone(self, running: Sequence[Sent]) -> None:
        """Note since when jobs do not run any more; one that was queued again is there again."""
        words = self.look(running)
        for one in running:
            word = words.get(one.handle.job_id)
            one.gone = None if word is None else one.gone or (time.monotonic(), word)

    def read_end(self, sent: Sent) -> JobReturn | None:
        """How a job ended; None while it may still run, or its result may not be seen yet."""
        paths = sent.handle.paths
        if paths.result_pickle.is_file():
            outcome, value = pickle.loads(paths.result_pickle.read_bytes())
            if outcome == "success":
                return value
            return not_ended(f"{value.strip().splitlines()[-1]} (all of it in {paths.stderr})")
        if sent.gone is None or time.monotonic() - sent.gone[0] < self.lag:
            return None
        lines = paths.stderr.read_text(errors="replace").splitlines() if paths.stderr.is_file() else []
        last = "".join(f"\n    {line}" for line in lines[-LOG_LINES:])
        return not_ended(f"it is gone ({sent.gone[1]}) and has left no result; the same command runs it again. {last}")
