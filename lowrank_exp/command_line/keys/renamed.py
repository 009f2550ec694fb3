"""Keys that have another name since an earlier version: what to type now."""

SHARE = dict.fromkeys(("P", "p", "rate", "s_f"), "share")

RENAMED = {"pruning": SHARE | {"s_i": "share_at_first"}}  # by the mapping that they are in


def renamed(where: str, name: str) -> str | None:
    """That a key has another name now, and which; None where it has not.

    >>> renamed("pruning", "P")
    'pruning.P is called pruning.share now: type that'
    """
    new = RENAMED.get(where, {}).get(name)
    return None if new is None else f"{where}.{name} is called {where}.{new} now: type that"
