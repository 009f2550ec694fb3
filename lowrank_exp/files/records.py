"""Records of a dataclass in a JSON file that may come from anywhere: read, checked field by field. No torch here."""

import functools
import json
import stat
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path

from lowrank_exp.checks import is_number, is_whole
from lowrank_exp.text.plain_text import plain, shortened

FRACTIONS = (
    "accuracy",
    "val_accuracy",
    "top5",
    "class_accuracy",
    "accuracy_alone",
)  # in [0, 1]; other numbers are at least 0 ...
ANY_SIGN = ("seed", "values", "rank")  # ... but these
UNWRITTEN = ("folder", "intact")  # fields that tell of a file and do not stand in it
LARGEST = 1e38  # a number in a result
DEEPEST = 50  # mappings and lists within each other
LONGEST_FILE = 2**26  # bytes


def read_json(path: Path) -> object:
    """What the file holds, if it is one that may be a result."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a file: move it away")
    if status.st_size > LONGEST_FILE:
        raise ValueError(f"{path} has {status.st_size:,} bytes, a result at most {LONGEST_FILE:,}: move it away")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run its job again") from error
    except RecursionError:
        record, deep = None, True
    else:
        deep = _is_too_deep(record)
    if deep:
        raise ValueError(f"{path} is nested more than {DEEPEST} deep: it is not a result, move it away")
    return record


def _is_too_deep(record: object) -> bool:
    nested = (dict, list)
    level = [record] if isinstance(record, nested) else []
    for _ in range(DEEPEST):
        insides = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for inside in insides for inner in inside if isinstance(inner, nested)]
    return bool(level)


def check_record(kind: type, record: object, path: str, where: str) -> dict:
    """`record`, if it has the fields of `kind`: none missing, none unknown, each of its type and within its range."""
    place = where or "the result"
    if not isinstance(record, dict):
        raise ValueError(f"{path}: {place} must be a mapping, got {type(record).__name__}")
    known, required = _names(kind)
    if not required <= record.keys() <= known:
        lacking, unknown = sorted(required - record.keys()), sorted(record.keys() - known)
        problem = f"lacks {', '.join(lacking)}" if lacking else f"has unknown fields {', '.join(unknown)}"
        raise ValueError(
            f"{path}: {place} {shortened(problem, 200)}; it was written by another version, run its job again"
        )
    checks = _checks(kind)
    for name, value in record.items():
        if not checks[name](value):
            allowed = _in_words(_types(kind)[name], *_bounds(name))
            got = shortened(plain(repr(value)), 60) if not isinstance(value, dict | list) else type(value).__name__
            raise ValueError(f"{path}: {f'{where}.' if where else ''}{name} must be {allowed}, got {got}")
    return record


@functools.cache  # a report reads tens of thousands of records of the same few kinds
def _checks(kind: type) -> dict[str, Callable[[object], bool]]:
    """What tells of every field whether it may have a value."""
    return {name: _check(hint, *_bounds(name)) for name, hint in _types(kind).items()}


def _bounds(name: str) -> tuple[float, float]:
    """The least and the largest number in a field."""
    return -LARGEST if name in ANY_SIGN else 0.0, 1.0 if name in FRACTIONS else LARGEST


@functools.cache
def _types(kind: type) -> dict[str, typing.Any]:
    return typing.get_type_hints(kind)


@functools.cache
def _names(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """The fields that a record may have, and those that it must have."""
    written = [item for item in fields(kind) if item.name not in UNWRITTEN]
    return frozenset(item.name for item in written), frozenset(item.name for item in written if _required(item))


def _check(hint: typing.Any, least: float, most: float) -> Callable[[object], bool]:
    """Tells whether a value is of the type that `hint` says, its numbers within bounds."""
    parts = typing.get_args(hint)
    if hint is typing.Any:
        return lambda value: True
    if isinstance(hint, types.UnionType):
        return functools.reduce(_either, (_check(part, least, most) for part in parts))
    if typing.get_origin(hint) is list:  # phases and layers are checked one by one
        if (kind := parts[0]) not in (str, dict):
            return lambda value: isinstance(value, list)
        return lambda value: isinstance(value, list) and all(isinstance(one, kind) for one in value)
    if typing.get_origin(hint) is dict:
        check = _check(parts[1], least, most)
        return lambda value: isinstance(value, dict) and all(check(one) for one in value.values())
    if is_dataclass(hint):  # whose fields are checked one by one, too
        return lambda value: isinstance(value, dict)
    if hint is int:
        return lambda value: is_whole(value, least, most)
    if hint is float:
        return lambda value: is_number(value) and least <= value <= most
    return lambda value: isinstance(value, hint)


def _either(one: Callable[[object], bool], other: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: one(value) or other(value)


def _in_words(hint: typing.Any, least: float, most: float) -> str:
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return " or ".join(_in_words(part, least, most) for part in parts)
    if typing.get_origin(hint) is dict:
        return f"a mapping of names to {_in_words(parts[1], least, most)}"
    if typing.get_origin(hint) is list:
        return {str: "a list of words", dict: "a list of mappings"}.get(parts[0], "a list")
    if is_dataclass(hint):
        return "a mapping"
    if hint in (int, float):
        return f"{'a whole number' if hint is int else 'a number'} from {least:g} to {most:g}"
    return {str: "a text", dict: "a mapping", list: "a list", bool: "true or false"}.get(hint, "null")


def _required(item: Field) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
