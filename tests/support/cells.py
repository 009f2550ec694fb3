"""Grids of cases as one test: it runs for every cell, and its failure names all the cells that fail."""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence

import pytest

GRIDS: dict[Callable, tuple] = {}  # of every loop: the test within, and its cells as (part, label, arguments)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def cells(
    names: str | Sequence[str],
    values: Iterable,
    ids: Iterable[str] | Callable[..., str] = _shown,
    by: Callable[..., str] | None = None,
) -> Callable[[Callable], Callable]:
    """What `pytest.mark.parametrize` does, as a loop within one test; several of them make the product of their cells.

    `by` gives of a cell's values the part that it belongs to: then every part is a test of its own, for grids that take
    long. Fixtures are made once for all cells of a test: where each cell needs a fresh one, tests stay parametrized.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    rows = [(value,) if len(names) == 1 else tuple(value) for value in values]
    labels = [", ".join(map(ids, row)) for row in rows] if callable(ids) else list(ids)
    assert rows, "a grid without cells tests nothing"

    def loop(test: Callable) -> Callable:
        inner, theirs = GRIDS.get(test, (test, [("", "", {})]))
        grid = [
            (
                by(*row) if by else part,
                ", ".join(filter(None, (label, other))),
                dict(zip(names, row, strict=True)) | rest,
            )
            for label, row in zip(labels, rows, strict=True)
            for part, other, rest in theirs
        ]

        @functools.wraps(inner)
        def every_cell(part: str = "", **fixtures: object) -> None:
            __tracebackhide__ = True
            chosen = [(label, cell) for of, label, cell in grid if of == part]
            failures = []
            for label, cell in chosen:
                try:
                    inner(**fixtures, **cell)
                except (Exception, pytest.fail.Exception) as error:
                    failures.append(f"[{label}] {_told(error, inner)}")
            if failures:
                raise AssertionError(f"{len(failures)} of {len(chosen)} cells fail\n" + "\n".join(failures)) from None

        parameters = dict(inspect.signature(test).parameters)
        assert parameters.keys() >= set(names), f"{test.__name__} has no argument for one of {names}"
        left = [parameter for name, parameter in parameters.items() if name not in names]
        if by:
            left.append(inspect.Parameter("part", inspect.Parameter.KEYWORD_ONLY))
        every_cell.__signature__ = inspect.Signature(left)
        GRIDS[every_cell] = inner, grid
        return pytest.mark.parametrize("part", dict.fromkeys(of for of, _, _ in grid))(every_cell) if by else every_cell

    return loop


def _told(error: BaseException, test: Callable) -> str:
    """The line of the test that failed, and what it said."""
    file = inspect.getsourcefile(inspect.unwrap(test))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}".replace("\n", "\n    ")
