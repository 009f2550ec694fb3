"""The configuration as the command line composes it, and as phases get it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.deltas import allow_deltas, merge_recipes
from lowrank_exp.command_line.table_options import offer_tables
from lowrank_exp.job.walk import make_phases
from lowrank_exp.phases.phase import Phase


def composed(*overrides: str) -> DictConfig:
    offer_tables()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=allow_deltas(overrides))


def made(cfg: DictConfig, name: str) -> Phase:
    """A phase of a flattened configuration."""
    method = OmegaConf.to_container(cfg.method)
    return make_phases(method | {"order": [name]})[name]


def flattened(cfg: DictConfig) -> DictConfig:
    """Resolved, recipes merged with what stands beside them."""
    return OmegaConf.create(merge_recipes(OmegaConf.to_container(cfg, resolve=True)))
