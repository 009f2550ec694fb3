"""Whatever is set on the command line arrives in the phases that are made of it, is refused by its name, or is said to
change nothing."""

import copy
import itertools
from collections.abc import Sequence

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.choices import check_effect
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.deltas import allow_deltas, check_hidden, merge_recipes
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.command_line.keys.root import ROOT
from lowrank_exp.command_line.used import part_of, used_parts, without_use
from lowrank_exp.job.walk import make_phases
from support.composed import composed
from support.overrides import arrives, described, leaves, others, typed

REFUSED = (ValueError, ConfigCompositionException, InstantiationException)
# What the job goes through, what reports compare with, what leaves at the end, what controls take.
NOT_OF_PHASES = ("method.order", "method.dense", "method.export", "method.controls")
# The method that an option of a group is looked at in.
GROUPS = {
    "training": "train",
    "regularizer": "train",
    "finetune": "decompose",
    "rank": "oneshot",
    "reconstruct": "oneshot",
    "decomposition": "oneshot",
    "pruning": "prune",
    "pruning/criterion": "prune",
}
NEEDS = {"rank/fixed": ["rank.ranks={conv1:2}"]}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


class Job:
    """A configuration on the way to its phases, as `lowrank-exp` takes it there."""

    parser = OverridesParser.create()

    def __init__(self, *overrides: str) -> None:
        self.cfg = composed(*overrides)
        self.before = self.phases()
        config, written = self.containers(self.cfg)
        self.used = used_parts(config, written)

    @staticmethod
    def containers(cfg: DictConfig) -> tuple[dict, dict]:
        return merge_recipes(OmegaConf.to_container(cfg, resolve=True)), OmegaConf.to_container(cfg, resolve=False)

    def phases(self, *overrides: str, hidden: bool = False) -> dict:
        """What the phases are made of; raises what the command line would, `hidden`: also of what others hide."""
        cfg = copy.deepcopy(self.cfg)
        ConfigLoaderImpl._apply_overrides_to_config(self.parser.parse_overrides(allow_deltas(overrides)), cfg)
        config, written = self.containers(cfg)
        check_values(config, written)
        check_effect(overrides, config)
        if hidden:
            check_hidden(overrides, cfg)
        return described(make_phases(config["method"]))

    def cells(self, groups: Sequence[str]):
        resolved, written = (OmegaConf.to_container(self.cfg, resolve=resolve) for resolve in (True, False))
        for group in groups:
            yield from leaves(written[group], resolved[group], ROOT.keys[group], group)

    def failures(self, groups: Sequence[str]) -> dict[str, object]:
        """By key of these groups what is wrong with it; nothing is where a value arrives, or is refused by its name."""
        wrong: dict[str, object] = {}
        unused: list[str] = []
        rounds: list[dict] = []  # keys of one name are looked at apart, so that each value is known by its place
        for key, kind, value in self.cells(groups):
            name = key.rpartition(".")[2]
            values = list(itertools.islice(others(kind, value, name), 3))
            if key.startswith(NOT_OF_PHASES):
                continue
            if not values:
                wrong[key] = "no other value is known"
                continue
            if part_of(key) not in (None, *self.used):
                unused.append(typed(key, values[0]))
                continue
            fitting = next((one for one in rounds if name not in one), None)
            if fitting is None:
                rounds.append(fitting := {})
            fitting[name] = (key, values)
        for one in rounds:
            self.look(list(one.values()), wrong)
        said = " ".join(without_use(unused, self.cfg, "this"))
        if self.phases(*unused) != self.before or any(override not in said for override in unused):
            wrong["to be said to change nothing"] = unused
        return wrong

    def look(self, keys: list, wrong: dict[str, object]) -> None:
        """Several keys at once; one by one where that is refused, or where something does not arrive."""
        try:
            after = self.phases(*(typed(key, values[0]) for key, values in keys))
        except REFUSED as error:
            if len(keys) > 1:
                self.look(keys[: len(keys) // 2], wrong)
                self.look(keys[len(keys) // 2 :], wrong)
                return
            ((key, values),) = keys
            if len(values) > 1:
                self.look([(key, values[1:])], wrong)
            elif not any(name in str(error) for name in key.split(".")[-2:]):
                wrong[key] = error
            return
        for key, values in keys:
            if not arrives(key, values[0], self.before, after):
                try:
                    self.phases(typed(key, values[0]), hidden=True)
                    wrong[key] = f"{values[0]} does not arrive"
                except ValueError as error:
                    wrong |= {} if f"{key}=" in str(error) else {key: error}


@pytest.mark.slow
def test_every_key_of_every_method_arrives():
    wrong = {
        method: failures for method in options("method") if (failures := Job(f"method={method}").failures(["method"]))
    }
    assert wrong == {}


@pytest.mark.parametrize("group", GROUPS)
def test_every_key_of_every_option_arrives(group):
    found = {}
    for option in options(group):
        job = Job(f"method={GROUPS[group]}", f"{group}={option}", *NEEDS.get(f"{group}/{option}", []))
        found[option] = job.failures([group.partition("/")[0]])
    assert {option: wrong for option, wrong in found.items() if wrong} == {}
