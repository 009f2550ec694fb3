"""One job in its folder: who runs it, whether it has finished before, and what is recorded of how it ended."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from lowrank_exp.checks import WithoutEffectError
from lowrank_exp.command_line.choices import labels, options
from lowrank_exp.command_line.control import control_of, without_control
from lowrank_exp.command_line.used import job_config, without_use
from lowrank_exp.files import confusion
from lowrank_exp.files.exclusion import hold_lock, share
from lowrank_exp.files.results import RESULT, Result, fingerprint
from lowrank_exp.files.whole import sweep_parts
from lowrank_exp.files.writable import unwritable
from lowrank_exp.job.console import Console
from lowrank_exp.job.departures import departures
from lowrank_exp.job.file_job import FileJob, is_executed_file
from lowrank_exp.job.hopeless import Pruned
from lowrank_exp.job.network_job import NetworkJob
from lowrank_exp.job.receipts import write_receipt
from lowrank_exp.job.signals import Interrupted, signal_in
from lowrank_exp.job.taking import HeldError, leave_job
from lowrank_exp.job.unfinished import Place, record_end, record_pruned, record_void

MISTAKES = (ValueError, TypeError, FileNotFoundError, ImportError, InstantiationException)  # of a configuration


def run(cfg: DictConfig, folder: Path, hydra_cfg: DictConfig) -> Result | None:
    """Run one job in `folder`, or read its result where it has finished with the same outcome keys.

    With `dry_run` print what it would do, and write nothing but SVDs to the store; then there is no result. With
    `stop_after` there is none either, but phases in the store.

    Args:
        cfg: the composed configuration, without Hydra's own node.
        folder: the job's folder; `result.json`, `model.pt`, `plan.yaml` and `confusion/` end there.
        hydra_cfg: that node: what was chosen and typed.

    Raises:
        Whatever goes wrong, after a `result.json` with status `failed` and the traceback has been written: but for a
        mistake in the configuration that is found before the first phase, of which nothing is recorded.
    """
    names = labels(hydra_cfg)
    control = control_of(hydra_cfg)
    config = job_config(cfg, names, control)
    identity = {"fingerprint": fingerprint(config), "seed": cfg.seed, "config": config, **names}
    identity |= {"choices": options(hydra_cfg, config), "departures": departures(hydra_cfg)}
    if control is not None:
        row = job_config(without_control(cfg), names)
        identity["control"] = {"name": control, "of": fingerprint(row)}
    console = Console.of_job(cfg, hydra_cfg)
    for line in without_use(hydra_cfg.overrides.task, cfg, names["method"]):
        console.say(line)
    share(cfg.store.shared, cfg.store.silent)
    if cfg.dry_run:
        try:
            make_job(cfg, config, folder, names, console, Place()).dry_run(identity["fingerprint"])
        except WithoutEffectError as error:
            if control is None:
                raise
            console.say(f"control {control}: {error}")
        return None
    leave_job(folder, folder / ".lock")
    variables = dict(os.environ)
    lock = hold_lock(folder / ".lock", lambda: console.say(f"waiting for another process that runs {folder.name}"))
    writable = unwritable(folder) is None
    with lock if writable else nullcontext():  # a finished job answers from there, too
        place, made = Place(), False
        if writable:
            sweep_parts(folder, folder / confusion.FOLDER)
        try:
            if control is not None and config == row | {"control": control}:
                raise WithoutEffectError("no phase of this row chooses ranks by the group rank: nothing is shuffled")
            job, made = make_job(cfg, config, folder, names, console, place), True
            if cfg.stop_after is not None:
                job.run_until(cfg.stop_after)
                return None
            result = job.run(identity)
            write_receipt(cfg, hydra_cfg.runtime.choices, folder, result)
        except (Exception, Interrupted, KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, WithoutEffectError) and control is not None:
                return record_void(error, folder / RESULT, identity, cfg.device, console.say)
            if isinstance(error, Pruned):
                return record_pruned(error, folder / RESULT, identity, cfg.device, place, console.say)
            if isinstance(error, HeldError):
                raise
            if not made and isinstance(error, MISTAKES) and signal_in(error) is None:
                raise
            if (signal := record_end(error, folder / RESULT, identity, cfg.device, place, console.say)) is None:
                raise
            raise signal from None
        finally:
            os.environ.clear()
            os.environ.update(variables)
    console.result(result, folder / RESULT)
    return result


def make_job(cfg: DictConfig, *rest: Any) -> NetworkJob | FileJob:
    """The job of a configuration: of a network, or of a file that a runtime executes."""
    return FileJob(cfg, *rest) if is_executed_file(cfg.model.get("weights")) else NetworkJob(cfg, *rest)
