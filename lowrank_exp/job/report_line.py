"""What shows the results of a sweep: the command that a sweep ends with."""

import shlex
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from lowrank_exp.command_line.choices import labels
from lowrank_exp.files.results import RESULT

WITHOUT = "runs"  # where jobs of no experiment lie


def report_line(config: DictConfig) -> str:
    """The command that reports the sweep of a configuration as a page; empty where there is no result yet, nothing was
    to be written, or another than Hydra's own sweeper says so itself."""
    sweeper = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"
    folder = Path(config.paths.outputs) / (labels(config.hydra)["experiment"] or WITHOUT)
    if config.dry_run or config.hydra.sweeper._target_ != sweeper or not any(folder.glob(f"*/{RESULT}")):
        return ""
    return shlex.join(["lowrank-report", str(folder), "--html", str(folder / "report.html")])
