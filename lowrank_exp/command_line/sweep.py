"""What is wrong with a sweep as a whole, seen before its first job."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from lowrank_exp.command_line.deltas import allow_deltas


class CheckJobs(Callback):
    """Ends a sweep that has no job, or the same one twice. Of Hydra's own sweeper: others choose jobs as they go.

    Options of trainings that an experiment sweeps may be set beside a recipe, see `deltas.allow_deltas`.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper = config.hydra.sweeper
        if sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
            return
        params = allow_deltas([f"{key}={value}" for key, value in (sweeper.params or {}).items()])
        with read_write(sweeper), open_dict(sweeper):
            sweeper.params = dict(one.split("=", 1) for one in params) if params else sweeper.params
        try:
            check_jobs([*params, *config.hydra.overrides.task])
        except ValueError as error:
            raise SystemExit(f"\nerror: {error}") from error  # Hydra turns other errors here into warnings


def check_jobs(overrides: list[str]) -> None:
    """Raise ValueError unless a sweep over these has jobs, no two of them with equal overrides.

    >>> check_jobs(["seed=0,1", "model=lenet5"])
    >>> check_jobs(["seed=range(3,0)"])
    Traceback (most recent call last):
    ValueError: seed=range(3,0) gives no value, so the sweep has no job: give it values, such as seed=0,1,2
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    for one in parsed:
        if one.is_discrete_sweep() and not list(one.sweep_string_iterator()):
            key = one.get_key_element()
            raise ValueError(
                f"{one.input_line} gives no value, so the sweep has no job: give it values, such as {key}=0,1,2"
            )
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    seen: set[tuple[str, ...]] = set()
    for job in map(tuple, jobs):
        if job in seen:
            raise ValueError(f"the sweep has this job twice: {' '.join(job)}. Give every value once")
        seen.add(job)
