"""Edits as plain dictionaries, for files; what comes back from one is looked through first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any

from lowrank_exp.checks import is_whole
from lowrank_exp.edits import EDITS, Edit
from lowrank_exp.text.shown import shown


def to_records(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Edits as plain dictionaries, for a file."""
    return [{"edit": type(edit).__name__, **asdict(edit)} for edit in edits]


def from_records(records: Sequence[Mapping[str, Any]]) -> list[Edit]:
    """Edits from plain dictionaries.

    Raises:
        ValueError: an edit that this version does not know, or with other fields or values than it has.
    """
    if not isinstance(records, list | tuple):
        raise ValueError(f"the edits must be a list, got {shown(records)}")
    return [_edit(record) for record in records]


def _edit(record: Any) -> Edit:
    if not isinstance(record, Mapping):
        raise ValueError(f"an edit must be a mapping, got {shown(record)}")
    content = dict(record)
    name = content.pop("edit", None)
    if not isinstance(name, str) or name not in EDITS:
        raise ValueError(f"unknown edit {shown(name)}; this version knows {', '.join(EDITS)}")
    known = {field.name: field for field in fields(EDITS[name])}
    needed = [key for key, field in known.items() if field.default is field.default_factory is MISSING]
    missing, unknown = [key for key in needed if key not in content], [key for key in content if key not in known]
    if missing or unknown:
        lacks = f"it has no {', '.join(missing)}" if missing else f"{name} has no {shown(unknown[0])}"
        raise ValueError(f"the edit {shown(content)} is not one of this version: {lacks}")
    for key, value in content.items():
        may_be, words = _FIELDS[key]
        if not may_be(value) or (key == "rank" and name == "ToSVD" and not _is_natural(value)):
            layer = shown(content["layer"])
            raise ValueError(f"the edit {name} of the layer {layer} has {key} {shown(value)}, but it must be {words}")
    return EDITS[name](**content)


def _is_natural(value: Any) -> bool:
    return is_whole(value, least=0)


def _are_whole(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_natural, value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(one is None or type(one) in (bool, int, float, str) for one in value)
    return value is None or type(value) in (bool, int, float, str)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "layer": (lambda value: isinstance(value, str), "a name"),
    "decomposition": (lambda value: isinstance(value, str), "a name"),
    "rank": (lambda value: _is_natural(value) or _are_whole(value), "a whole number, or a list of them"),
    "options": (
        lambda value: isinstance(value, dict) and all(isinstance(k, str) and _is_plain(v) for k, v in value.items()),
        "a mapping of names to plain values",
    ),
    "out": (lambda value: value is None or _are_whole(value), "a list of whole numbers, or None"),
    "inputs": (lambda value: value is None or _are_whole(value), "a list of whole numbers, or None"),
}
