"""The command line before any configuration: the folder that Python looks for modules in, and Hydra's flags."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.utils import get_args_parser

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.control import with_all_controls
from lowrank_exp.command_line.deltas import allow_deltas
from lowrank_exp.command_line.keys.renamed import under_new_names
from lowrank_exp.command_line.mistakes import KEY, unreadable

VERBOSE = {"-v", "--verbose"}


def put_working_folder_last() -> None:
    """Let modules of the working folder be found, but none in the place of a library.

    A network of one's own, named by `_target_`, may lie in the working folder; so may a `statistics.py` or a `torch.py`
    that is meant for other things. Processes that this one starts do the same.
    """
    here = os.getcwd()
    sys.path[:] = [*(path for path in sys.path if path not in ("", here)), here]
    os.environ["PYTHONSAFEPATH"] = "1"  # else `python -m` and `-c` of a worker put the folder first again


def checked(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them: `-v` is `verbose=true`, `-p KEY` alone shows that part of the configuration.

    Raises:
        ValueError: a flag of Hydra's that would be without effect here, or do harm, or an override without a key.
    """
    arguments = [*(one for one in arguments if one not in VERBOSE), *["verbose=true"] * bool(VERBOSE & set(arguments))]
    arguments = with_all_controls(under_new_names(arguments), [CONF, *own_folders(arguments)])
    flags = get_args_parser().parse_args(arguments)
    for override in flags.overrides:
        if not KEY.fullmatch(override.partition("=")[0]):
            raise ValueError(unreadable(override))
    if flags.config_path is not None:
        raise ValueError(
            f"--config-path {flags.config_path}: the configuration cannot be put in another place. Add groups of your "
            "own by --config-dir FOLDER"
        )
    if flags.experimental_rerun is not None:
        raise ValueError(
            f"--experimental-rerun {flags.experimental_rerun}: jobs are not kept as pickles. Give the same overrides "
            "again: a finished job is read, an interrupted one goes on"
        )
    other = {"-m": flags.multirun, "-r": flags.run, "--info": flags.info, "--shell-completion": flags.shell_completion}
    named = [flag for flag, there in other.items() if there]
    if (flags.package is not None or flags.resolve) and flags.cfg is None:
        flag = "--resolve" if flags.package is None else f"-p {flags.package}"
        if named:
            raise ValueError(f"{flag} is for --cfg job and does nothing beside {named[0]}: leave one of them out")
        return ["--cfg", "job", *allow_deltas(arguments)]
    return allow_deltas(arguments)


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """The folder of `--config-dir`, where there is one."""
    folder = get_args_parser().parse_known_args(list(arguments))[0].config_dir
    return [Path(folder)] if folder is not None and Path(folder).is_dir() else []


@contextmanager
def missing_part_told(arguments: Sequence[str]) -> Iterator[None]:
    """Within the block, where Hydra shows a part of the configuration, one that is not there raises ValueError."""
    try:
        yield
    except SystemExit as ended:
        package = get_args_parser().parse_args(list(arguments)).package
        if package is None or ended.code != 1:
            raise
        raise ValueError(
            f"-p {package}: the configuration has no such part, or it is null. Name a group or a key, such as -p rank "
            "or -p training.optimizer; --cfg job alone shows all"
        ) from None
