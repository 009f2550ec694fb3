"""What was got, short enough for an error message."""

import reprlib
from typing import Any

LONGEST = 200

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 3, 80, 80, 40


def shown(value: Any) -> str:
    """`repr(value)`, cut where it is long, however much the value holds.

    >>> shown(["x" * 1000] * 1000)[:20], len(shown(["x" * 1000] * 1000))
    ("['xxxxxxxxxxxxxxxxxx", 200)
    """
    try:
        text = _short.repr(value)
    except Exception:  # a whole number of too many digits, and whatever other people's classes raise
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
