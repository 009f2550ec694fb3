"""The loop that stands for a parametrized test: every cell runs, and what fails is told by name."""

import pytest

from support.cells import GRIDS, cells


def test_every_cell_runs_and_all_that_fail_are_told_with_what_they_say():
    seen = []

    @cells("power", [1, 2], ids=["one", "two"])
    @cells(("base", "wanted"), [(2, 2), (3, 9), (4, 16)])
    def powers(power, base, wanted, extra):
        seen.append((power, base, extra))
        assert base**power == wanted, "not that power"
        with pytest.raises(ZeroDivisionError):
            base / (base - 3)

    with pytest.raises(AssertionError) as told:
        powers(extra=7)
    assert seen == [(power, base, 7) for power in (1, 2) for base in (2, 3, 4)]
    first, *others = [line for line in str(told.value).splitlines() if not line.startswith(" ")]
    assert first == "5 of 6 cells fail"
    wrong, right = "AssertionError: not that power", "Failed: DID NOT RAISE ZeroDivisionError"
    expected = {"one, 2, 2": right, "one, 3, 9": wrong, "one, 4, 16": wrong, "two, 2, 2": wrong, "two, 4, 16": right}
    line = GRIDS[powers][0].__code__.co_firstlineno
    said = [(f"[{name}] line {line + 4 if text == wrong else line + 5}: {text}") for name, text in expected.items()]
    assert others == said
    assert "\n    assert (3 ** 1) == 9\n" in str(told.value)


def test_parts_are_tests_of_their_own_and_fixtures_stay_arguments():
    @cells("number", range(5), by=lambda number: "odd" if number % 2 else "even")
    def small(number, tmp_path):
        assert number < tmp_path

    (mark,) = small.pytestmark
    assert (mark.name, mark.args[0], list(mark.args[1])) == ("parametrize", "part", ["even", "odd"])
    assert list(small.__signature__.parameters) == ["tmp_path", "part"]
    small(part="odd", tmp_path=4)
    with pytest.raises(AssertionError, match=r"^1 of 3 cells fail\n\[4\] line \d+: AssertionError: assert 4 < 4$"):
        small(part="even", tmp_path=4)


def test_a_grid_that_tests_nothing_is_refused():
    with pytest.raises(AssertionError, match="a grid without cells"):
        cells("number", [])
    with pytest.raises(AssertionError, match="has no argument for one of"):
        cells("number", [1])(lambda other: other)
