"""The jobs of a sweep given to the launcher that the configuration names."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig

from lowrank_exp.job.ends import names_of, tell_ends
from lowrank_exp.job.report_line import report_line
from lowrank_exp.job.taking import Taking
from lowrank_exp.job.turns import Leaving, run_in_turn, run_side_by_side
from lowrank_exp.machine.cores import count_cores
from lowrank_exp.text.plain_text import plain
from lowrank_exp.text.terminal import Terminal

log = logging.getLogger(__name__)


@contextmanager
def launched() -> Iterator[None]:
    """Within the block a sweep is launched by the `launcher` of its configuration, or else in turn.

    In turn, or side by side by joblib, jobs are shared out with other processes that run the same sweep, and how each
    ended is said at the end. Hydra takes launchers from packages called `hydra_plugins` alone: so its own ones hand the
    jobs on. The last line, however the sweep ends, is the command that shows its results.
    """
    configs: list[DictConfig] = []
    kinds = {kind.__name__: kind for kind in Plugins.instance().discover(Launcher)}
    basic, joblib = kinds["BasicLauncher"], kinds["JoblibLauncher"]
    launch, launch_side_by_side = basic.launch, joblib.launch

    def hand_on(self: Launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        configs.append(self.config)
        if self.config.launcher.get("_target_") is not None:
            chosen = instantiate(self.config.launcher)
            chosen.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
            return chosen.launch(job_overrides, initial_job_idx)
        return said(job_overrides, initial_job_idx, run_in_turn(self, job_overrides, initial_job_idx))

    def side_by_side(
        self: Launcher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        configs.append(self.config)
        folder = Path(str(self.config.hydra.sweep.dir))
        at_a_time = jobs_side_by_side(self.config.hydra, self.config.launcher)
        log.info(f"Launching {len(job_overrides)} jobs, {at_a_time} at a time")
        names = names_of(job_overrides, initial_job_idx)
        self.task_function = Leaving(self.task_function, Taking.from_now(folder, phases=False), names)
        ends = run_side_by_side(
            lambda jobs, first: launch_side_by_side(self, jobs, first), job_overrides, initial_job_idx
        )
        return said(job_overrides, initial_job_idx, ends)

    basic.launch, joblib.launch = hand_on, side_by_side
    try:
        yield
    finally:
        basic.launch, joblib.launch = launch, launch_side_by_side
        if configs and (line := report_line(configs[0])):
            Terminal().print(plain(line), soft_wrap=True, markup=False, highlight=False)


def jobs_side_by_side(hydra_cfg: DictConfig, launcher: DictConfig) -> int:
    """How many jobs share the cores: those that Hydra's launcher, or the configuration's, runs at a time on them."""
    sweep = str(hydra_cfg.mode) == "RunMode.MULTIRUN"
    jobs = launcher.get("n_jobs", hydra_cfg.launcher.get("n_jobs", 1)) if sweep else 1
    return count_cores() if jobs is not None and jobs < 0 else max(1, jobs or 1)


def said(jobs: Sequence[Sequence[str]], first: int, ends: list[JobReturn]) -> list[JobReturn]:
    """The ends of several jobs, told."""
    for line in tell_ends(jobs, first, ends) if len(jobs) > 1 else ():
        log.info(line)
    return ends
