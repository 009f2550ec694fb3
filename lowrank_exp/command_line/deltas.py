"""Trainings as phases get them: the recipe that a phase names, with what is set beside it in the place of its own.

    {_target_: lowrank_exp.phases.Train, recipe: ${training}, epochs: 10}

A recipe is a group of the configuration, or another phase that trains. Both are merged here, when all overrides are in
place, and nowhere before: whatever is set of either has its effect.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.utils import _locate
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.keys.kinds import shown
from lowrank_exp.command_line.keys.training import TRAIN
from lowrank_exp.command_line.order import order_of

# An option of a training that is set of a phase, or of a training within one: `method.phases.prune.train.epochs=2`.
_OPTIONS = "|".join(name for name in TRAIN if name not in ("recipe", "regularizer"))
_DELTA = re.compile(rf"method\.phases\.\w+(\.train)?\.(({_OPTIONS})(\.[^=\s]+)?|regularizer)=")
_TYPED = re.compile(r"(training|finetune|method\.phases\.\w+)\.([^=\s]+)=")
_READ, _MARK = "read by a phase", "a value that no option has"


def merge_recipes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration, in which every phase has the options of its trainings beside its own.

    >>> phase = {"_target_": "Train", "recipe": {"epochs": 30, "optimizer": {"lr": 0.1}}, "epochs": 10}
    >>> merge_recipes({"method": {"phases": {"train": phase}}})["method"]["phases"]["train"]
    {'epochs': 10, 'optimizer': {'lr': 0.1}, '_target_': 'Train'}
    """
    method = config.get("method")
    if not isinstance(method, Mapping) or not isinstance(method.get("phases"), Mapping):
        return dict(config)  # which is told by the check of its keys
    merged = {name: _merge_within(method[name]) for name in ("phases", "controls") if name in method}
    return {**config, "method": {**method, **merged}}


def _merge_within(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return [_merge_within(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    parts = {name: _merge_within(part) for name, part in node.items()}
    if "_target_" in parts and isinstance(parts.get("recipe"), Mapping):
        return merge(parts.pop("recipe"), parts)
    return parts


def nest_recipes(node: Any) -> Any:
    """The same, flat, with the options of a training as an object of their own where a `_target_` takes a `recipe`.

    Modules that a `_target_` names are imported for that; what is wrong with one is told elsewhere.
    """
    if isinstance(node, list):
        return [nest_recipes(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    parts = {name: nest_recipes(part) for name, part in node.items()}
    if parts.keys().isdisjoint(TRAIN) or not _takes_a_recipe(parts.get("_target_")):
        return parts
    own = {name: part for name, part in parts.items() if name not in TRAIN}
    options = {name: part for name, part in parts.items() if name in TRAIN}
    return {**own, "recipe": {"_target_": "lowrank_exp.training.Recipe", **options}}


def _takes_a_recipe(target: Any) -> bool:
    try:
        return isinstance(target, str) and "recipe" in inspect.signature(_locate(target)).parameters
    except Exception:
        return False


def merge(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged, at any depth; one with another `_target_` takes the place of the other as a whole.

    >>> merge({"schedule": {"_target_": "steps", "at": [0.5]}}, {"schedule": {"_target_": "cosine"}})
    {'schedule': {'_target_': 'cosine'}}
    """
    result = dict(base)
    for name, value in delta.items():
        there = base.get(name)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            alike = value.get("_target_", there.get("_target_")) == there.get("_target_")
            value = merge(there, value) if alike else value
        result[name] = value
    return result


def allow_deltas(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra takes them: an option of a training need not stand beside the recipe before it is set there.

    >>> allow_deltas(["method.phases.finetune.epochs=3", "method.phases.factorize.rank.macs=0.4"])
    ['++method.phases.finetune.epochs=3', 'method.phases.factorize.rank.macs=0.4']
    """
    return [f"++{argument}" if _DELTA.match(argument) else argument for argument in arguments]


def check_hidden(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Raise ValueError for an override of a recipe that no phase gets, as something else stands beside it everywhere.

    Recipes that no phase of the method's order names may be overridden.

    Args:
        overrides: as they were typed.
        cfg: the composed configuration, without Hydra's own node.
    """
    config = merge_recipes(OmegaConf.to_container(cfg, resolve=True))
    for override in overrides:
        typed = _TYPED.match(override.lstrip("+"))
        if typed is None:
            continue
        recipe, option = typed[1], typed[2]
        phases = _mark_option(cfg, recipe, option)
        readers = [key for key, node in _find_mappings(phases, "method.phases") if _READ in node]
        if not readers or any(_MARK in node.values() for _, node in _find_mappings(phases, "")):
            continue
        _, value = _select_nearest(config, recipe, option)
        instead = [_select_nearest(config, reader, option) for reader in readers]
        if hiding := [f"{key}={shown(other)}" for key, other in instead if other != value]:
            raise ValueError(
                f"{override} changes nothing: {hiding[0]} takes its place. Leave one out, or give both the same value"
            )


def _mark_option(cfg: DictConfig, recipe: str, option: str) -> dict[str, Any]:
    """The phases of the method's order, flat, with marks: on what takes a recipe, and in the option's place."""
    marked = cfg.copy()
    OmegaConf.set_struct(marked, False)
    OmegaConf.update(marked, f"{recipe}.{_READ}", True)
    leaves = [f"{recipe}.{option}"]
    while leaves:
        node = OmegaConf.select(marked, key := leaves.pop())
        if isinstance(node, DictConfig) and node:
            leaves += [f"{key}.{name}" for name in node]
        else:
            OmegaConf.update(marked, key, _MARK, merge=False)
    method = merge_recipes(OmegaConf.to_container(marked, resolve=True))["method"]
    return {name: method["phases"][name] for name in order_of(method) if name in method["phases"]}


def _find_mappings(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings in a node, itself among them, with their full names."""
    if isinstance(node, Mapping):
        yield key, node
    parts = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, part in parts:
        yield from _find_mappings(part, f"{key}.{name}")


def _select_nearest(config: Mapping[str, Any], place: str, option: str) -> tuple[str, Any]:
    """The name and the value of an option, or of the nearest key above it."""
    node: Any = config
    for name in place.split("."):
        node = node[name]
    for name in option.split("."):
        if not isinstance(node, Mapping) or name not in node:
            break
        node, place = node[name], f"{place}.{name}"
    return place, node
