"""What was chosen on the command line, and choices that make no sense together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf, JobConf, RunDir, SweepDir
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.keys.kinds import inside, unknown
from lowrank_exp.command_line.order import order_of
from lowrank_exp.command_line.tables import read_table, sets, table_path
from lowrank_exp.command_line.used import part_of, used_parts

NAMES = ("method", "experiment", "row")
NOT_RECORDED = (
    "experiment",
    "row",
    "control",
    "scale/",
    "recipe",
    "logger",
    "launcher",
    "sweeper",
    "hydra/",
)  # the first three stand by themselves


def labels(hydra_cfg: DictConfig) -> dict[str, str | None]:
    """The names of the method, the experiment and the row that were chosen."""
    return {name: None if option is None else option.rpartition("/")[2] for name, option in _chosen(hydra_cfg).items()}


def options(hydra_cfg: DictConfig, config: Mapping[str, Any]) -> dict[str, str]:
    """The chosen option of every group that a job's configuration has, and the scale."""
    chosen = {group: option for group, option in hydra_cfg.runtime.choices.items() if option not in (None, "null")}
    return {
        group: str(option)
        for group, option in chosen.items()
        if part_of(group) in (None, *config) and not group.startswith(NOT_RECORDED)
    }


def folders(hydra_cfg: DictConfig) -> list[Path]:
    """The folders of configuration that Hydra searches."""
    return [Path(source.path) for source in hydra_cfg.runtime.config_sources if source.schema == "file"]


def check_choices(hydra_cfg: DictConfig, config: Mapping[str, Any]) -> None:
    """Raise ValueError for an override without effect, or TRP without its penalty.

    Args:
        hydra_cfg: Hydra's own node.
        config: resolved, without it.
    """
    check_hydra(hydra_cfg)
    if (last := config.get("stop_after")) is not None and last not in (order := order_of(config["method"])):
        raise ValueError(f"stop_after={last} is refused: allowed is a phase of this method's order, {', '.join(order)}")
    check_effect(hydra_cfg.overrides.task, config)
    regularizer = config.get("regularizer") or {}
    trains_on = set(config["method"]["order"]) - {"train"}
    if (
        _chosen(hydra_cfg)["method"] == "trp"
        and trains_on
        and not regularizer.get("terms")
        and not regularizer.get("projection")
    ):
        raise ValueError(
            "regularizer has neither terms nor a projection, and method=trp is a training under them. Leave "
            "regularizer=trp, or take method=decompose"
        )


def check_hydra(hydra_cfg: DictConfig) -> None:
    """Raise ValueError for a key of Hydra's own node that Hydra does not read."""
    for part, kind in {"": HydraConf, "run": RunDir, "sweep": SweepDir, "job": JobConf}.items():
        known = [field.name for field in fields(kind)]
        for name in hydra_cfg[part] if part else hydra_cfg:
            if name not in known and (part, name) != ("", "env"):  # a group of Hydra's that its schema leaves out
                raise ValueError(unknown(inside("hydra", part) if part else "hydra", name, known))


def check_row(hydra_cfg: DictConfig) -> None:
    """Raise ValueError for a row of a table without the experiment that it is a row of."""
    _, experiment, row = _chosen(hydra_cfg).values()
    if row is None:
        return
    table, _, name = row.rpartition("/")
    path = table_path(table, folders(hydra_cfg))
    if experiment is None or (experiment != table and path is not None and name in read_table(path).rows):
        words = "no experiment" if experiment is None else f"experiment={experiment}"
        raise ValueError(
            f"row={row} with {words}: a row says what it changes of its own table alone. Write "
            f"experiment={table or '<table>'} hydra.mode=RUN row={row}"
        )


def check_row_used(hydra_cfg: DictConfig, cfg: DictConfig) -> None:
    """Raise ValueError for a row that chooses or sets something of its own that no phase of its order uses.

    What it takes over from the row that it is like, or from the table's defaults, may be of no use to it.

    Args:
        hydra_cfg: Hydra's own node.
        cfg: the composed configuration, without it.
    """
    _, experiment, row = _chosen(hydra_cfg).values()
    path = None if experiment is None else table_path(experiment, folders(hydra_cfg))
    if path is None or row is None or any(key_of(typed).startswith("method") for typed in hydra_cfg.overrides.task):
        return
    table, name = read_table(path), row.rpartition("/")[2]
    one, written = table.rows[name], OmegaConf.to_container(cfg, resolve=False)
    smoke = hydra_cfg.runtime.choices.get("scale") == "smoke"
    if smoke and any("method" in of.smoke for of in (table.defaults, one)):  # may cut what the row says on purpose
        return
    used = used_parts(OmegaConf.to_container(cfg, resolve=True), written)
    for key in one.own:
        if (part := part_of(key)) is not None and part not in used:
            raise ValueError(
                f"rows.{name} of {path} says {key}, and no phase of its order uses {part}: it changes nothing. Leave "
                f"it out, or name a phase in method.order that uses it; the order is {', '.join(order_of(cfg.method))}"
            )


def key_of(override: str) -> str:
    """The key of an override.

    >>> key_of("+rank.macs=0.5")
    'rank.macs'
    """
    return override.lstrip("+~").partition("=")[0]


def set_by_table(message: str, hydra_cfg: DictConfig) -> str:
    """Where the key that a message begins with is set, if it is by a table and not on the command line; else ""."""
    key, (_, experiment, row) = re.split(r"[^\w.]", message)[0], _chosen(hydra_cfg).values()
    typed = (override.lstrip("+~").partition("=")[0] for override in hydra_cfg.overrides.task)
    if not key or experiment is None or any(sets({override: None}, key) for override in typed):
        return ""
    if (path := table_path(experiment, folders(hydra_cfg))) is None:
        return ""
    table, name = read_table(path), (row or "").rpartition("/")[2]
    if name in table.rows and any(sets(node, key) for node in (table.rows[name].set, table.rows[name].smoke)):
        return f" (set by rows.{name} of {path})"
    ours = any(sets(node, key) for node in (table.defaults.set, table.defaults.smoke))
    return f" (set by defaults of {path})" if ours else ""


def check_effect(overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Raise ValueError for an override of a phase that the method does not have, or by an empty mapping, which Hydra
    merges into the one there, so that nothing changes.

    >>> check_effect(["weights={}"], {"weights": {}})
    >>> check_effect(["weights={}"], {"weights": {"l2": 1.0}})
    Traceback (most recent call last):
    ValueError: weights={} changes nothing: mappings are merged, and weights keeps l2. Take a name away by ~weights.l2
    """
    phases = config.get("method", {}).get("phases") or {}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        name = key.split(".")[2] if key.startswith("method.phases.") else None
        if name in phases and "_target_" not in (phases[name] or {}):
            there = ", ".join(other for other, phase in phases.items() if phase and "_target_" in phase)
            raise ValueError(f"{override}: this method has no phase {name}. Its phases are: {there}")
        if value.replace(" ", "") != "{}" or "@" in key:
            continue
        remaining = OmegaConf.select(OmegaConf.create(dict(config)), key)
        if remaining:
            raise ValueError(
                f"{override} changes nothing: mappings are merged, and {key} keeps {', '.join(map(str, remaining))}. "
                f"Take a name away by ~{key}.{next(iter(remaining))}"
            )


def _chosen(hydra_cfg: DictConfig) -> dict[str, str | None]:
    choices = {name: hydra_cfg.runtime.choices.get(name) for name in NAMES}
    return {name: None if choice in (None, "null") else str(choice) for name, choice in choices.items()}
