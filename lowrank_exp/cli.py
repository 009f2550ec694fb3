"""`lowrank-exp`: one job, or a sweep with -m. This file and job/ are the only readers of a DictConfig.

Neither torch nor Lightning is imported here: `--help` and `--cfg job` need not wait for them.
"""

import os
import sys

if __name__ == "__main__":  # python -m has put the working folder first, and the imports below would look there
    sys.path.append(sys.path.pop(0))

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.checks import whole
from lowrank_exp.command_line.choices import check_choices, check_row, check_row_used, labels, set_by_table
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.control import control_of
from lowrank_exp.command_line.deltas import check_hidden, merge_recipes, nest_recipes
from lowrank_exp.command_line.flags import checked, missing_part_told, own_folders, put_working_folder_last
from lowrank_exp.command_line.help import asked_help
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.command_line.keys.targets import check_packages, check_targets
from lowrank_exp.command_line.mistakes import explained, shortened
from lowrank_exp.command_line.table_options import offer_tables
from lowrank_exp.command_line.used import job_config, without_use
from lowrank_exp.files.data_folders import check_folder
from lowrank_exp.files.results import RESULT, Result, fingerprint
from lowrank_exp.files.weights_path import check_there
from lowrank_exp.job.class_count import count_classes_
from lowrank_exp.job.ends import name_of_job, told_once
from lowrank_exp.job.launching import jobs_side_by_side, launched
from lowrank_exp.job.receipts import read_receipted
from lowrank_exp.job.signals import Interrupted, end_with_the_parent, raising, signal_in, signals_raised
from lowrank_exp.job.taking import HeldError
from lowrank_exp.machine.allocator import keep_freed_memory
from lowrank_exp.machine.cores import count_cores, openmp_threads
from lowrank_exp.text.plain_text import plain_lines
from lowrank_exp.text.printing import print_safely

MOST_THREADS = 1024
HUB = "lowrank_exp.models.hub"


def main() -> None:
    """The console script. Exit status 0: every job ended well; 1: a mistake, a job that failed or missed a target;
    128 + n: signal n. `lowrank-exp store` has its own, see there.
    """
    print_safely()
    if sys.argv[1:2] == ["store"]:
        from lowrank_exp.job.store_command import main as store

        sys.exit(store(sys.argv[2:]))
    try:
        if (text := asked_help(sys.argv[1:], CONF, own_folders(sys.argv[1:]))) is not None:
            print(text)
            return
    except ValueError as error:
        sys.exit(f"error: {plain_lines(str(error))}")
    put_working_folder_last()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be said in full and without a traceback
    decorate = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    try:
        sys.argv[1:] = checked(sys.argv[1:])
        offer_tables()
        with signals_raised(), launched(), told_once(), missing_part_told(sys.argv[1:]):
            decorate(job)()
    except (Exception, Interrupted, KeyboardInterrupt) as error:
        if (signal := signal_in(error)) is not None:
            print(f"\n{signal}", file=sys.stderr)
            sys.exit(signal.status)
        if isinstance(error, MissedTargetError):
            sys.exit(f"\nmissed: {plain_lines(str(error))}")
        if any(argument in ("debug=true", "debug=True") for argument in sys.argv[1:]):
            raise
        sys.exit(f"\nerror: {plain_lines(explained(error))}\n(debug=true shows the traceback)")


def job(cfg: DictConfig) -> None:
    """One job, in Hydra's output folder."""
    hydra_cfg = HydraConfig.get()
    if not raising():  # a process that a launcher has started
        end_with_the_parent()
    print_safely()
    try:
        with signals_raised():
            result = _job(cfg, hydra_cfg)
    except Interrupted as interrupted:
        interrupted.job = hydra_cfg.job.get("num")
        raise
    except HeldError:  # the job comes later
        raise
    except Exception as error:
        if (name := name_of_job(hydra_cfg.overrides.task)) is not None:  # of a sweep only the first error reaches main
            print(f"{name}: {plain_lines(shortened(explained(error)))}", file=sys.stderr)
        raise
    if result is not None and result.status == "missed":
        lines = [f"{phase.name}: {warning}" for phase in result.phases if phase.missed for warning in phase.warnings]
        raise MissedTargetError("; ".join([*lines, *result.not_exported]))


def _job(cfg: DictConfig, hydra_cfg: DictConfig) -> Result | None:
    if (result := read_receipted(cfg, hydra_cfg.runtime.choices, Path(hydra_cfg.runtime.output_dir))) is not None:
        tell_finished(cfg, hydra_cfg, result)
        return result
    sweep, side_by_side = str(hydra_cfg.mode) == "RunMode.MULTIRUN", jobs_side_by_side(hydra_cfg, cfg.launcher)
    check(cfg, hydra_cfg)
    count_classes_(cfg)
    if side_by_side > 1:
        cfg.progress = False
    stay_where_it_started(cfg.paths, Path(hydra_cfg.runtime.cwd))
    use_threads(cfg.threads, side_by_side, cfg.force_threads)
    check_threads("latency.threads", cfg.latency.threads, cfg.force_threads)
    keep_freed_memory()
    check_devices(cfg.devices, sweep)
    from lowrank_exp.job.run import run

    return run(cfg, Path(hydra_cfg.runtime.output_dir), hydra_cfg)


def tell_finished(cfg: DictConfig, hydra_cfg: DictConfig, result: Result) -> None:
    """Print what a job that has finished before would print."""
    from lowrank_exp.job.console import Console

    console = Console.of_job(cfg, hydra_cfg)
    for line in without_use(hydra_cfg.overrides.task, cfg, labels(hydra_cfg)["method"]):
        console.say(line)
    console.finished()
    console.result(result, Path(hydra_cfg.runtime.output_dir) / RESULT)


def check(cfg: DictConfig, hydra_cfg: DictConfig) -> None:
    """Raise ValueError for a mistake in the configuration; all that can be seen without torch comes first."""
    check_row(hydra_cfg)
    config = merge_recipes(OmegaConf.to_container(cfg, resolve=True))
    try:
        check_values(config, OmegaConf.to_container(cfg, resolve=False))
    except ValueError as error:
        raise ValueError(f"{error}{set_by_table(str(error), hydra_cfg)}") from error
    check_packages(config)
    check_weights(config["model"])
    check_folder(config["data"])
    check_launcher(hydra_cfg)
    check_choices(hydra_cfg, config)
    check_row_used(hydra_cfg, cfg)
    check_hidden(hydra_cfg.overrides.task, cfg)
    check_targets(nest_recipes(config))


def check_weights(model: Mapping[str, Any]) -> None:
    """Raise ValueError for a file of weights that is not there; networks of `hub` have weights by name, too."""
    if isinstance(weights := model.get("weights"), str) and model.get("_target_") != HUB:
        try:
            check_there(Path(weights))
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error


def check_launcher(hydra_cfg: DictConfig) -> None:
    """Raise ValueError for a launcher that has nothing to launch, or that stands beside one of Hydra's own."""
    typed = next((one for one in hydra_cfg.overrides.task if one.startswith(("launcher=", "launcher."))), None)
    if typed is not None and str(hydra_cfg.mode) != "RunMode.MULTIRUN":
        raise ValueError(f"{typed} without -m: launchers run the jobs of a sweep, and this is a single job. Write -m")
    chosen = hydra_cfg.runtime.choices
    if chosen.get("launcher") != "serial" and chosen.get("hydra/launcher") != "basic":
        raise ValueError(
            f"launcher={chosen.get('launcher')} beside hydra/launcher={chosen.get('hydra/launcher')}: leave one out"
        )


def stay_where_it_started(paths: DictConfig, start: Path) -> None:
    """Make paths absolute where Hydra has changed the working folder (`hydra.job.chdir`), which would move them."""
    if Path.cwd() != start:
        for name, path in list(paths.items()):
            paths[name] = str(start / Path(path).expanduser())


class MissedTargetError(Exception):
    """A job has ended with all of its phases, and a target was not met or a file not exported."""


def use_threads(threads: int | None, side_by_side: int, force: bool = False) -> None:
    """Give torch its threads: those asked for, those of `OMP_NUM_THREADS`, or this job's share of the cores.

    Raises:
        ValueError: not a number of threads, or more than cores, which `force` allows up to a thousand.
    """
    check_threads("threads", threads, force)
    import torch

    share = max(1, count_cores() // side_by_side)
    torch.set_num_threads(threads or min(openmp_threads() or share, count_cores()))


def check_threads(key: str, threads: int | None, force: bool) -> None:
    """Raise ValueError unless so many threads can compute at a time, or `force` has them wait for each other."""
    if threads is None:
        return
    allowed = "null (all cores) or an integer from 1"
    whole(key, threads, message=f"{key}={threads!r} is not a number of threads: {allowed}")
    most = MOST_THREADS if force else count_cores()
    if threads > most:
        hint = "" if force else ", or force_threads=true, with which they wait for each other"
        raise ValueError(
            f"{key}={str(threads)[:20]} is more than the {most} {'that are sound' if force else 'cores'} here: "
            f"1 to {most}{hint}"
        )


def check_devices(devices: int, sweep: bool) -> None:
    """Raise ValueError for a sweep whose jobs would each take several devices."""
    if sweep and devices != 1:
        raise ValueError(
            f"devices={devices} in a sweep: its jobs may run side by side, and would take the same devices. Spread "
            "jobs over devices instead, with devices=1 and a sweep for each device=cuda:<index>; or run a job alone, "
            "not in a sweep"
        )


def job_folder(*, _root_: DictConfig) -> str:
    """`<experiment or runs>/<fingerprint>`: where a job's files lie, whatever the order of its overrides."""
    for name, path in _root_.paths.items():
        if not isinstance(path, str) or not path.strip():
            raise ValueError(f"paths.{name}={'null' if path is None else repr(path)} is not a folder: name one")
    names = labels(_root_.hydra)
    root = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    with contextlib.suppress(Exception):  # what is wrong with the data is told by the job
        count_classes_(root)
    return f"{names['experiment'] or 'runs'}/{fingerprint(job_config(root, names, control_of(_root_.hydra)))}"


def if_writable(folder: str, value: Any, otherwise: Any) -> Any:
    """One of two values for Hydra's own notes: a finished job answers from a folder that takes none."""
    return value if os.access(folder, os.W_OK) else otherwise


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("if_writable", if_writable, replace=True)


if __name__ == "__main__":
    from lowrank_exp.cli import main as imported

    imported()  # by its own name other processes find it, too
