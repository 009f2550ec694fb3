"""Every file in conf/ composes, resolves and instantiates."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.deltas import nest_recipes
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.command_line.keys.targets import check_targets
from lowrank_exp.command_line.tables import FOLDER, Row, overlay, sets
from lowrank_exp.command_line.used import job_config, part_of, used_parts
from lowrank_exp.data import ImageData
from lowrank_exp.decomposition import Decompositions
from lowrank_exp.files.results import deciding, digest
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
    return instantiated(composed(*overrides))


def instantiated(cfg: DictConfig) -> Decompositions:
    """Check a composed configuration and instantiate its parts; the decompositions."""
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
    jobs = {}
    for row in table.rows:
        cfg = composed(f"experiment={name}", f"row={name}/{row}")
        assert instantiated(cfg).conv, row
        assert not list(without_effect(cfg, table.defaults, table.rows[row])), row
        only = job_config(cfg, {"experiment": name, "row": None})
        assert jobs.setdefault(digest(deciding(only)), row) == row  # every row is another job
    for smoke in {str(row.smoke): key for key, row in table.rows.items()}.values():
        assert checked(f"experiment={name}", f"row={name}/{smoke}", "scale=smoke").conv, smoke
    if not table.rows:
        assert checked(f"experiment={name}", "scale=smoke").conv


def without_effect(cfg: DictConfig, defaults: Row, row: Row) -> Iterator[str]:
    """What a row says and its configuration does not have, or no phase of it uses."""
    config, written = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (True, False))
    said = overlay(defaults.set, row.set)
    yield from (f"{key} is set and beaten" for key in beaten(said, written))
    used = used_parts(config, written)
    yield from (f"{key} is not used" for key in row.own if part_of(key) not in (None, *used))
    for group, option in {**defaults.choose, **row.choose}.items():
        kind = OmegaConf.load(CONF / group / f"{option}.yaml").get("_target_")
        chosen = OmegaConf.select(cfg, f"{group.replace('/', '.')}._target_")
        if kind is not None and chosen != kind and not sets(said, f"{group}._target_"):
            yield f"{group} is {chosen}, not {option}"


def beaten(said: Mapping, config: Mapping, key: str = "") -> Iterator[str]:
    """The keys of nested settings that have another value in a configuration."""
    for name, value in said.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), Mapping):
            yield from beaten(value, config[name], f"{key}{name}.")
        elif config.get(name, beaten) != value:
            yield f"{key}{name}"


def test_a_row_without_effect_is_refused(command, tmp_path, capsys):
    (tmp_path / "conf/table").mkdir(parents=True)
    rows = "{mine: {choose: {rank: energy}, set: {method: {order: [train]}}}}"
    (tmp_path / "conf/table/own.yaml").write_text(f"rows: {rows}\n")
    assert command(f"--config-dir={tmp_path / 'conf'}", "experiment=own", "scale=smoke") == 1
    said = capsys.readouterr().err
    assert "rows.mine of" in said
    assert "says rank, and no phase of its order uses rank: it changes nothing" in said
    assert not list(tmp_path.rglob("result.json"))


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
