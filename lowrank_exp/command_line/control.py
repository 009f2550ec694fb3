"""Controls on the command line: which one a job is, of which row, and `controls=true`, a sweep over all of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

GROUP, NONE, ALL = "control", "none", "controls"


def control_of(hydra_cfg: DictConfig) -> str | None:
    """The control that was chosen; None: the row itself."""
    chosen = hydra_cfg.runtime.choices.get(GROUP)
    return None if chosen in (None, "null", NONE) else str(chosen)


def without_control(cfg: DictConfig) -> DictConfig:
    """The configuration of the row that a control is of: a copy without appended phases, its ranks not shuffled."""
    row = cfg.copy()
    OmegaConf.set_struct(row, False)
    row.method.pop("then", None)
    row.rank.pop("shuffle", None)
    return row


def with_all_controls(arguments: Sequence[str], folders: Iterable[Path]) -> list[str]:
    """Arguments with `controls=true` written out: a sweep over the row and every control of some folders.

    Args:
        arguments: as they were typed.
        folders: of configuration, whose `control` has the options.

    Raises:
        ValueError: `controls` is neither true nor false, or stands beside a choice of `control`.
    """
    typed = [argument for argument in arguments if argument.partition("=")[0] == ALL]
    rest = [argument for argument in arguments if argument not in typed]
    if not typed:
        return rest
    if len(typed) > 1:
        raise ValueError(f"{' '.join(typed)}: leave one of them out")
    value = typed[-1].partition("=")[2].lower()
    if value not in ("true", "false"):
        raise ValueError(f"{typed[-1]} is refused: allowed is true or false. One of them alone is {GROUP}=<name>")
    if value == "false" or "--cfg" in rest or "-c" in rest:
        return rest
    if other := next((argument for argument in rest if argument.partition("=")[0] == GROUP), None):
        raise ValueError(f"{typed[-1]} beside {other}: leave one of them out")
    names = sorted({path.stem for folder in folders for path in (folder / GROUP).glob("*.yaml")} - {NONE})
    mode = [] if {"-m", "--multirun"} & set(rest) else ["--multirun"]
    sweep = f"{GROUP}={','.join([NONE, *names])}"
    return [*mode, *(sweep if argument == typed[-1] else argument for argument in arguments)]
