"""What was chosen on the command line, and choices that make no sense together."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf, JobConf, RunDir, SweepDir
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.keys.kinds import inside, unknown

NAMES = ("method", "experiment", "row")


def labels(hydra_cfg: DictConfig) -> dict[str, str | None]:
    """The names of the method, the experiment and the row that were chosen."""
    return {name: None if one is None else one.rpartition("/")[2] for name, one in _chosen(hydra_cfg).items()}


def check_choices(hydra_cfg: DictConfig, config: Mapping[str, Any], conf: Path) -> None:
    """Raise ValueError for a row without its experiment, an override without effect, or TRP without its penalty.

    Args:
        hydra_cfg: Hydra's own node.
        config: resolved, without it.
        conf: the folder of our configuration.
    """
    chosen = _chosen(hydra_cfg)
    check_hydra(hydra_cfg)
    check_row(chosen["row"], chosen["experiment"], conf)
    check_effect(hydra_cfg.overrides.task, config)
    regularizer = config.get("regularizer") or {}
    trains_on = set(config["method"]["order"]) - {"train"}
    if chosen["method"] == "trp" and trains_on and not regularizer.get("terms") and not regularizer.get("projection"):
        raise ValueError(
            "regularizer has neither terms nor a projection, and method=trp is a training under them. Leave "
            "regularizer=trp, or take method=decompose"
        )


def check_hydra(hydra_cfg: DictConfig) -> None:
    """Raise ValueError for a key of Hydra's own node that Hydra does not read."""
    for part, kind in {"": HydraConf, "run": RunDir, "sweep": SweepDir, "job": JobConf}.items():
        known = [one.name for one in fields(kind)]
        for name in hydra_cfg[part] if part else hydra_cfg:
            if name not in known and (part, name) != ("", "env"):  # a group of Hydra's that its schema leaves out
                raise ValueError(unknown(inside("hydra", part) if part else "hydra", name, known))


def check_row(row: str | None, experiment: str | None, conf: Path) -> None:
    """Raise ValueError for a row of a table without the experiment that it is a row of."""
    if row is None:
        return
    table = row.rpartition("/")[0]
    ours = (conf / f"row/{row}.yaml").is_file() and (conf / f"experiment/{table}.yaml").is_file()
    if experiment is None or (ours and experiment != table):
        got = "no experiment" if experiment is None else f"experiment={experiment}"
        raise ValueError(
            f"row={row} with {got}: a row says what it changes of its own table alone. Write "
            f"experiment={table or '<table>'} hydra.mode=RUN row={row}"
        )


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
            there = ", ".join(one for one, phase in phases.items() if phase and "_target_" in phase)
            raise ValueError(f"{override}: this method has no phase {name}. Its phases are: {there}")
        if value.replace(" ", "") != "{}" or "@" in key:
            continue
        kept = OmegaConf.select(OmegaConf.create(dict(config)), key)
        if kept:
            raise ValueError(
                f"{override} changes nothing: mappings are merged, and {key} keeps {', '.join(map(str, kept))}. Take a "
                f"name away by ~{key}.{next(iter(kept))}"
            )


def _chosen(hydra_cfg: DictConfig) -> dict[str, str | None]:
    choices = {name: hydra_cfg.runtime.choices.get(name) for name in NAMES}
    return {name: None if choice in (None, "null") else str(choice) for name, choice in choices.items()}
