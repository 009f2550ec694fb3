"""Checks of options: what a caller gives is of the right kind and in range, or a ValueError says what is allowed.

Each takes the option's name and its value, and says in words of its own what is wrong unless `message` says it. True
and false are not numbers here, though Python counts with them.
"""

import math
import sys
from collections.abc import Collection
from typing import Any


class WithoutEffectError(ValueError):
    """What was asked for would change nothing here."""


def is_whole(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is an integer from `least` to `most`.

    >>> is_whole(3, least=1), is_whole(0, least=1), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a number, an integer or a float; it may be infinite or NaN.

    >>> is_number(3), is_number(0.5), is_number(math.inf), is_number(False), is_number("3")
    (True, True, True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold, neither infinite nor NaN.

    >>> is_finite(3), is_finite(math.inf), is_finite(math.nan), is_finite(10**400), is_finite(True)
    (True, False, False, False, False)
    """
    return is_number(value) and -sys.float_info.max <= value <= sys.float_info.max


def all_finite(values: Collection[Any]) -> bool:
    """Whether all values are `is_finite`, and plain integers and floats: for many of them, as a file has.

    >>> all_finite([3, 0.5]), all_finite([3, math.nan]), all_finite([10**400]), all_finite([True])
    (True, False, False, False)
    """
    try:
        return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # an integer
        return False


def whole(name: str, value: Any, least: int = 1, message: str | None = None) -> None:
    """Nothing, if a value is an integer of at least `least`.

    Raises:
        ValueError: it is not.
    """
    if not is_whole(value, least):
        raise ValueError(message or f"{name}={value!r} must be an integer of at least {least}")


def positive(name: str, value: Any, message: str | None = None, *, zero: bool = False, infinite: bool = False) -> None:
    """Nothing, if a value is a number above 0; with `zero` also 0, with `infinite` also infinity.

    Raises:
        ValueError: it is not.
    """
    if not is_number(value) or not value >= 0 or (value == 0 and not zero) or (value == math.inf and not infinite):
        raise ValueError(message or f"{name}={value!r} is not a {'number of 0 or more' if zero else 'positive number'}")


def fraction(name: str, value: Any, message: str | None = None, *, zero: bool = False, one: bool = True) -> None:
    """Nothing, if a value lies between 0 and 1; with `zero` also 0, with `one` also 1.

    Raises:
        ValueError: it does not.
    """
    if not is_number(value) or not 0 <= value <= 1 or (value == 0 and not zero) or (value == 1 and not one):
        raise ValueError(message or f"{name}={value!r} is not in {'[' if zero else '('}0, 1{']' if one else ')'}")


def boolean(name: str, value: Any, message: str | None = None) -> None:
    """Nothing, if a value is true or false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(message or f"{name}={value!r} is neither true nor false")


def one_of(name: str, value: Any, allowed: Collection[Any], message: str | None = None) -> None:
    """Nothing, if a value is one of those allowed.

    Raises:
        ValueError: it is none of them.
    """
    if value not in allowed:
        raise ValueError(message or f"{name}={value!r} is not known: {' or '.join(map(str, allowed))}")
