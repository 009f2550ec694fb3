"""The configuration as the command line composes it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lowrank_exp.command_line.config_path import CONF


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))
