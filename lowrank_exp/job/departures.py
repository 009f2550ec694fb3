"""What of a job is not as its table states: overrides that were typed beside the experiment."""

from typing import Any

import yaml
from omegaconf import DictConfig

from lowrank_exp.command_line.choices import folders
from lowrank_exp.command_line.tables import Row, Table, overlay, read_table, searched, table_path
from lowrank_exp.files.results import EXCLUDED

# Where the table's own data and weights lie, which control it is, and what decides no number; seeds are told apart.
STATED = ("experiment", "row", "seed", "control", "data.root", "model.weights", "evaluation", *EXCLUDED)


def departures(hydra_cfg: DictConfig) -> list[str]:
    """The typed overrides by which a job is another one than its table states; none for a job of no table.

    Args:
        hydra_cfg: Hydra's own node.
    """
    experiment, row = (hydra_cfg.runtime.choices.get(name) for name in ("experiment", "row"))
    path = table_path(str(experiment), folders(hydra_cfg))
    if path is None:
        return []
    table = read_table(path)
    own = table.rows.get(str(row).rpartition("/")[2], Row())
    return [text for override in hydra_cfg.overrides.task if not _stated(text := override.lstrip("+"), table, own)]


def _stated(override: str, table: Table, row: Row) -> bool:
    """Whether an override says what the table says too, or nothing that a table states."""
    key, _, text = override.partition("=")
    if any(key == name or key.startswith(f"{name}.") for name in STATED) or override == "scale=full":
        return True
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if value in (swept := table.axes.get(key, ())) or searched(swept):
        return True
    if key in (choose := {**table.defaults.choose, **row.choose}):
        return value == choose[key]
    return value == _at(overlay(table.defaults.set, row.set), key) and value is not None


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings
