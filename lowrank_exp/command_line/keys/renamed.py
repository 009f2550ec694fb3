"""Keys that have another name since an earlier version: taken on the command line, told in files."""

import re
from collections.abc import Sequence

SHARE = dict.fromkeys(("P", "p", "rate", "s_f"), "share")

RENAMED = {"pruning": SHARE | {"s_i": "share_at_first"}}  # by the mapping that they are in


def renamed(where: str, name: str) -> str | None:
    """That a key has another name now, and which; None where it has not.

    >>> renamed("pruning", "P")
    'pruning.P is called pruning.share now: type that'
    """
    new = RENAMED.get(where, {}).get(name)
    return None if new is None else f"{where}.{name} is called {where}.{new} now: type that"


def under_new_names(arguments: Sequence[str]) -> list[str]:
    """Arguments with the names that their keys have now: commands of earlier versions do what they did.

    >>> under_new_names(["pruning=agp", "pruning.s_f=0.5"])
    ['pruning=agp', 'pruning.share=0.5']
    """
    return [re.sub(r"^(\+{0,2})(\w+)\.(\w+)(?==)", _renew, argument) for argument in arguments]


def _renew(key: re.Match[str]) -> str:
    sign, where, name = key.groups()
    return f"{sign}{where}.{RENAMED.get(where, {}).get(name, name)}"
