"""Every key that a configuration has, other values that it may have, and where they arrive in what is made of it."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from torch import Tensor

from lowrank_exp.command_line.deltas import merge_recipes
from lowrank_exp.command_line.keys.kinds import Either, Kind, Many, Named, Record, Single, Target, null, text
from lowrank_exp.command_line.keys.root import keys_of
from lowrank_exp.command_line.keys.training import TRAIN

NUMBERS = (2, 3, 5, 4, 1, 7, 0.25, 0.125, 0.375, 0.75, 0.0625, 0.5, 1.5, 3.0)
TEXTS = ("re:.*", "train", "initial")  # of layers and phases
PARTS = {  # what keys may be that are null
    "schedule": {"_target_": "lowrank_exp.training.schedules.constant", "_partial_": True},
    "regularizer": {"_target_": "lowrank_exp.regularizers.Regularizer", "terms": {}, "projection": None},
    "projection": {
        "_target_": "lowrank_exp.regularizers.TRPProjection",
        "decomposition": {"_target_": "lowrank_exp.decomposition.ChannelSVD"},
        "energy": 0.5,
    },
    "rank": {"_target_": "lowrank_exp.rank.allocate", "_partial_": True, "policy": "uniform", "macs": 0.5},
}


def leaves(written: Any, resolved: Any, kind: Kind, key: str) -> Iterator[tuple[str, Kind, Any]]:
    """The keys below `key` that have a single value or a list, with what they may be and what they are.

    Args:
        written: the part of the configuration at `key`, with its interpolations as they are written.
        resolved: the same part with their values.
        kind: what it may be.
        key: its name.
    """
    if isinstance(kind, Either):
        kind = next(one for one in kind.kinds if one.fits(resolved)) if isinstance(resolved, Mapping) else kind
    if not isinstance(written, Mapping) or not written:
        if not isinstance(resolved, Mapping):  # else: what stands for another group is overridden there
            yield key, kind, resolved
        return
    kinds = kinds_inside(kind, resolved)
    for name in written:
        if not name.startswith("_"):
            yield from leaves(written[name], resolved[name], kinds[name], f"{key}.{name}")
    if "recipe" in written:  # its options, which may be set beside it
        options = merge_recipes({"method": {"phases": {"": resolved}}})["method"]["phases"][""]
        for name in options:
            if name in TRAIN and name not in written:
                yield from leaves(options[name], options[name], kinds[name], f"{key}.{name}")


def kinds_inside(kind: Kind, node: Mapping[str, Any]) -> Mapping[str, Kind]:
    """What the keys of a mapping may be."""
    match kind:
        case Record():
            return kind.keys
        case Named():
            return dict.fromkeys(node, kind.of)
        case Target():
            return {**(keys_of(node) or {}), **kind.extra} if node["_target_"] is not None else kind.extra
    raise TypeError(f"{kind} has no keys")


def others(kind: Kind, value: Any, name: str = "") -> Iterator[Any]:
    """Values of that kind beside `value`, for a key of that name."""
    match kind:
        case Target() if value is None and name in PARTS:
            yield PARTS[name]
        case Either():
            for one in kind.kinds:
                if one is not null:
                    yield from others(one, value, name)
        case Many():
            lists = ([one] * (kind.lengths[0] if kind.lengths else 1) for one in others(kind.of, None))
            yield from (one for one in lists if one != value)
        case Record():
            yield {name: next(others(inner, None)) for name, inner in kind.keys.items()}
        case Named():
            yield from ({"conv1": one} for one in others(kind.of, None))
        case Single():
            words = kind.allowed.removeprefix("one of ").split(", ")
            candidates = TEXTS if kind is text else (True, False, *NUMBERS, *map(yaml.safe_load, words))
            for one in candidates:
                if kind.fits(one) and (one != value or isinstance(one, bool) != isinstance(value, bool)):
                    yield one


def typed(key: str, value: Any) -> str:
    """An override as it is typed.

    >>> typed("rank.rules", {"conv1": [1, None, "a"]})
    "rank.rules={conv1:[1,null,'a']}"
    """

    def grammar(value: Any) -> str:
        match value:
            case dict():
                return "{" + ",".join(f"{name}:{grammar(one)}" for name, one in value.items()) + "}"
            case list():
                return "[" + ",".join(map(grammar, value)) + "]"
            case str():
                return f"'{value}'"
        return json.dumps(value)

    return f"{key}={grammar(value)}"


def described(thing: Any, path: str = "", seen: frozenset[int] = frozenset()) -> dict[str, Any]:
    """What an object is made of, at any depth: plain values by their place in it."""
    if id(thing) in seen:
        return {}
    if isinstance(thing, Mapping):
        parts = {str(name): one for name, one in thing.items()}
    elif hasattr(thing, "_asdict"):
        parts = thing._asdict()
    elif isinstance(thing, list | tuple | set | frozenset):
        parts = {str(place): one for place, one in enumerate(thing)}
    elif isinstance(thing, functools.partial):
        parts = {"called": thing.func, **dict(enumerate(thing.args)), **thing.keywords}
    elif isinstance(thing, type) or (callable(thing) and hasattr(thing, "__qualname__")):
        return {path: thing.__qualname__}
    elif isinstance(thing, Tensor):
        return {path: thing.tolist()}
    elif dataclasses.is_dataclass(thing):
        parts = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    elif hasattr(thing, "__dict__"):
        parts = vars(thing)
    else:
        return {path: thing}
    places = {path: type(thing).__name__}
    for name, one in parts.items():
        places |= described(one, f"{path}.{name}", seen | {id(thing)})
    return places


def arrives(key: str, value: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a value has come where something else was, at a place of that key's name."""
    if isinstance(value, Mapping) and "_target_" not in value:
        return all(arrives(f"{key}.{name}", one, before, after) for name, one in value.items())
    values, name = list(_flattened(value)), key.rpartition(".")[2]
    values = [one["_target_"].rpartition(".")[2] if isinstance(one, Mapping) else one for one in values]
    new = [place for place in after if place not in before or after[place] != before[place]]
    return all(any(name in place.split(".") and after[place] == one for place in new) for one in values)


def _flattened(value: Any) -> Iterator[Any]:
    for one in value if isinstance(value, list) else ():
        yield from _flattened(one)
    if not isinstance(value, list):
        yield value
