"""One pass over a composed configuration: every key is what it may be, and none is read by nobody."""

from collections.abc import Mapping
from typing import Any

from lowrank_exp.command_line.interpolations import interpolated
from lowrank_exp.command_line.keys.kinds import Context
from lowrank_exp.command_line.keys.root import ROOT, keys_of


def check_values(config: Mapping[str, Any], written: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError for the first key that is not what it may be, with what was got, what is allowed, what to do.

    Keys inside a `_target_` that is not ours are left to it.

    Args:
        config: resolved.
        written: the same with its interpolations, as they are written: a key that is none of ours, and that another one
            takes its value from, is a user's own.
    """
    taken = interpolated(written or {})

    def is_read(key: str) -> bool:
        return any(name == key or name.startswith(f"{key}.") for name in taken)

    ROOT.check(config, "", Context(keys_of, is_read))
