"""Numbers as short as they are worth, and values that several records share, kept once."""

import marshal
from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_exp.checks import is_finite

DIGITS = 5  # that a number of the page has


class Pool:
    """Values that many records have in common: each is kept once, and records hold its place.

    >>> pool = Pool()
    >>> pool.place_of(["conv1"]), pool.place_of(["fc"]), pool.place_of(["conv1"]), pool.values
    (0, 1, 0, [['conv1'], ['fc']])
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[bytes, int] = {}

    def place_of(self, value: Any) -> int:
        """The place of a value of plain data among `values`."""
        key = marshal.dumps(value, 2)  # a version of the format in which equal values give equal bytes
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def short(value: Any) -> Any:
    """A number with five significant digits, whole ones in full; None for what is not a number.

    >>> short(0.123456789), short(416520.0), short(float("nan")), short(10**400), short("x")
    (0.12346, 416520, None, None, None)
    """
    if not is_finite(value):
        return None
    if float(value).is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{DIGITS}g}")


def shorts(values: Sequence[Any]) -> list[Any]:
    """`short` of every number."""
    return [short(value) for value in values]


def columns(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """The numbers of records by name; a name that no record has a number of is left out."""
    found = {name: shorts([record.get(name) for record in records]) for name in names}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}
