"""The order of a method's phases."""

from collections.abc import Mapping
from typing import Any


def order_of(method: Mapping[str, Any]) -> list[str]:
    """The phases of a method by name: those of its order, then those that a control appends.

    >>> order_of({"order": ["train"], "then": ["from_scratch"]})
    ['train', 'from_scratch']
    """
    return [*(method.get("order") or []), *(method.get("then") or [])]
