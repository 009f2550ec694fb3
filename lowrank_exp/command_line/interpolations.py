"""Which keys the interpolations of a configuration name."""

import re
from collections.abc import Mapping
from typing import Any

_INSIDE = re.compile(r"\$\{([^{}]*)")  # of an interpolation, up to one within it
_NAMES = re.compile(r"[A-Za-z_][\w.]*")


def interpolated(node: Any) -> set[str]:
    """Everything in a configuration's interpolations that may be the name of a key."""
    if isinstance(node, Mapping):
        return set().union(*map(interpolated, node.values()))
    if isinstance(node, list | tuple):
        return set().union(*map(interpolated, node))
    return {name for text in _INSIDE.findall(node) for name in _NAMES.findall(text)} if isinstance(node, str) else set()
