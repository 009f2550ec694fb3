"""Results with names that can be shown anywhere, and a name of its own for every file."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from lowrank_exp.files.results import Result
from lowrank_exp.text.plain_text import as_file_name, plain, plain_lines

NUMBERS = ("spectrum",)  # most of a record; readers take numbers in it and nothing else
AS_THEY_ARE = {int, float, bool, type(None)}
LONGEST_FILE_NAME = 80  # bytes, before the hash that then follows


def with_plain_names(result: Result) -> Result:
    """`result` with every text in it made `plain`; its error keeps its lines."""
    shown = _shown(replace(result, error=None))
    return replace(shown, error=None if result.error is None else plain_lines(result.error))


def file_name(begin: str, text: str, hash: str, taken: Mapping[str, object], ending: str) -> str:
    """`<begin>-<text>`, fit for a file; the hash tells apart what is cut, or would be called like one that is `taken`.

    >>> file_name("confusion", "a/b", "0123456789", {"confusion-a_b.png": 0}, "png")
    'confusion-a_b-012345'
    """
    name = as_file_name(f"{begin}-{text}")
    if len(name.encode()) > LONGEST_FILE_NAME or f"{name}.{ending}" in taken:
        name = f"{name.encode()[:LONGEST_FILE_NAME].decode(errors='ignore')}-{hash[:6]}"
    return name


def _shown(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isprintable() else plain(value)
    if kind in AS_THEY_ARE:
        return value
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [*map(_shown, value)]
    if is_dataclass(value):
        return replace(value, **{name: _shown(item) for name, item in vars(value).items() if name not in NUMBERS})
    return value  # the folder, which must be found
