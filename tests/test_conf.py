"""Every file in conf/ composes, resolves and instantiates."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.deltas import nest_recipes
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.command_line.keys.targets import check_targets
from lowrank_exp.command_line.tables import FOLDER
from lowrank_exp.data import ImageData
from lowrank_exp.decomposition import Decompositions
from lowrank_exp.job.walk import make_phases
from lowrank_exp.phases.phase import Phase
from support.cells import cells
from support.composed import composed, flattened
from support.table_rows import PUBLISHED, TABLES

NEEDS = {
    **{"method/evaluate": [], "rank/fixed": ["rank.ranks={conv1: 2}"]},
    "data/image_folder": ["data.num_classes=10"],  # else its folders are counted
}
OPTIONS = sorted(
    str(path.relative_to(CONF).with_suffix(""))
    for path in Path(CONF).rglob("*.yaml")
    if path.parent != CONF and path.parent.name not in (FOLDER, "recipe")
)


def checked(*overrides: str) -> Decompositions:
    """Compose, check and instantiate; the decompositions."""
    cfg = composed(*overrides)
    config = OmegaConf.to_container(flattened(cfg), throw_on_missing=True)
    check_values(config, OmegaConf.to_container(cfg, resolve=False))  # a new key: a line in command_line/keys/
    check_targets(nest_recipes(config))
    assert all(isinstance(phase, Phase) for phase in make_phases(config["method"]).values())
    assert isinstance(instantiate(cfg.data), ImageData)
    with torch.device("meta"):  # shapes are enough: some networks have more than 100 million weights
        assert isinstance(instantiate(cfg.model), torch.nn.Module)
    return Decompositions.of(instantiate(cfg.decomposition, _convert_="all"))


@cells("option", OPTIONS, by=lambda option: option.partition("/")[0])
def test_option_composes_and_instantiates(option):
    group, _, name = option.partition("/")
    decompositions = checked(f"{group}={name}", *NEEDS.get(option, []))
    assert (not decompositions.conv) == (option == "decomposition/linear_svd")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_composes_and_instantiates(name):
    table = TABLES[name]
    for row in table.rows:
        assert checked(f"experiment={name}", f"row={name}/{row}").conv, row
    for smoke in {str(row.smoke): key for key, row in table.rows.items()}.values():
        assert checked(f"experiment={name}", f"row={name}/{smoke}", "scale=smoke").conv, smoke
    if not table.rows:
        assert checked(f"experiment={name}", "scale=smoke").conv


def test_tables_with_figures_say_whose():
    for name, table in TABLES.items():
        printed = [row for row in table.rows if table.rows[row].published]
        assert bool(printed) == (name in PUBLISHED) == bool(table.source) == bool(table.title), name


@pytest.mark.parametrize("group", sorted({option.partition("/")[0] for option in OPTIONS}))
def test_group_has_a_default_that_exists(group):
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    chosen = {key: value for entry in defaults if isinstance(entry, DictConfig) for key, value in entry.items()}
    assert group in chosen
    assert chosen[group] is None or (CONF / group / f"{chosen[group]}.yaml").is_file()


def test_every_rank_option_has_the_common_keys():
    for path in (CONF / "rank").glob("*.yaml"):
        assert {"macs", "weights", "bytes", "latency", "latency_ms", "ranks", "rules", "over", "policy"} <= set(
            OmegaConf.load(path)
        ), path


def test_every_model_has_weights_null():
    for path in (CONF / "model").glob("*.yaml"):
        assert OmegaConf.load(path).weights is None, path
