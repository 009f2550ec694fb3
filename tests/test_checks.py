"""Checks of options: what passes, what does not, and what is said then."""

import math

import pytest

from lowrank_exp.checks import boolean, fraction, is_number, is_whole, one_of, positive, whole

NO_NUMBERS = (True, False, None, "1", [1], math.nan)


def refused(check, *given, **options):
    """The message with which a check refuses a value; None where it passes."""
    try:
        check("n", *given, **options)
    except ValueError as error:
        return str(error)
    return None


def test_whole_numbers_from_their_least_on():
    assert [refused(whole, value) for value in (1, 2, 10**30)] == [None] * 3
    assert refused(whole, 0, 0) is None
    assert refused(whole, -3, -3) is None
    assert refused(whole, 0) == "n=0 must be an integer of at least 1"
    assert refused(whole, 3, 4) == "n=3 must be an integer of at least 4"
    assert refused(whole, 1.0) == "n=1.0 must be an integer of at least 1"
    assert [refused(whole, value) for value in NO_NUMBERS] == [
        f"n={value!r} must be an integer of at least 1" for value in NO_NUMBERS
    ]


def test_positive_numbers():
    assert [refused(positive, value) for value in (1, 0.5, 5e-324)] == [None] * 3
    for value in (0, 0.0, -1, math.inf, -math.inf, *NO_NUMBERS):
        assert refused(positive, value) == f"n={value!r} is not a positive number"
    assert refused(positive, 0, zero=True) is None
    assert refused(positive, -1e-9, zero=True) == "n=-1e-09 is not a number of 0 or more"
    assert refused(positive, math.inf, infinite=True) is None
    assert refused(positive, math.nan, zero=True, infinite=True) == "n=nan is not a number of 0 or more"


@pytest.mark.parametrize(
    ("ends", "within", "interval"),
    [
        ({}, [0.5, 1, 1.0], "(0, 1]"),
        ({"zero": True}, [0, 0.0, 0.5, 1], "[0, 1]"),
        ({"one": False}, [0.5], "(0, 1)"),
        ({"zero": True, "one": False}, [0, 0.5], "[0, 1)"),
    ],
)
def test_fractions_with_and_without_their_ends(ends, within, interval):
    for value in (0, 0.5, 1, -0.1, 1.1, math.inf, *within, *NO_NUMBERS):
        passes = any(value is one or (not isinstance(value, bool) and value == one) for one in within)
        assert refused(fraction, value, **ends) == (None if passes else f"n={value!r} is not in {interval}")


def test_booleans_and_nothing_that_counts_as_one():
    assert [refused(boolean, value) for value in (True, False)] == [None, None]
    assert [refused(boolean, value) for value in (0, 1, None, "true")] == [
        f"n={value!r} is neither true nor false" for value in (0, 1, None, "true")
    ]


def test_one_of_some_values():
    assert refused(one_of, "a", ("a", "b")) is None
    assert refused(one_of, None, (None, 1)) is None
    assert refused(one_of, "c", ("a", "b")) == "n='c' is not known: a or b"
    assert refused(one_of, 2, (None, 1)) == "n=2 is not known: None or 1"


def test_the_caller_may_say_what_is_wrong():
    for check, *given in ((whole, 0), (positive, 0), (fraction, 2), (boolean, 1), (one_of, "c", "ab")):
        assert refused(check, *given, message="give another one") == "give another one"


def test_predicates():
    assert [is_whole(value, 2, 4) for value in (1, 2, 4, 5, 3.0, True)] == [False, True, True, False, False, False]
    assert [is_number(value) for value in (0, -1.5, math.nan, True, "1")] == [True, True, True, False, False]
