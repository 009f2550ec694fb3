"""Printed tables that fit their terminal: what all rows have is said once, and lines break between words."""

import re
from collections.abc import Sequence

import pandas as pd
from rich.cells import cell_len

INSIDE = re.compile(r"[^\s_/=,;+]*[\s_/=,;+]*")  # a part of a name, with what ends it
LONGEST_WORD = 24  # columns; a longer word may be broken


def without_constant(
    text: pd.DataFrame, kept: Sequence[str], measured: Sequence[bool] | None = None
) -> tuple[pd.DataFrame, str]:
    """`text` without the columns, but for those `kept`, that have one and the same cell in all rows; and what these
    are, in a line. Columns of empty cells go, too.

    `measured` says which rows count, where some have empty cells because nothing has run; None: all do.

    >>> frame = pd.DataFrame({"name": ["a", "b", "c"], "n": ["2", "2", "0"], "status": ["ok", "ok", ""]})
    >>> text, line = without_constant(frame, ["name"], [True, True, False])
    >>> list(text.columns), line
    (['name', 'n'], 'status ok')
    """
    found: list[str] = []
    counted = list(measured) if measured is not None and any(measured) else [True] * len(text)
    if sum(counted) < 2:
        return text, ""
    for name in text.columns:
        (first, *others) = {cell for cell, counts in zip(text[name], counted, strict=True) if counts}
        if name in kept or others or not set(text[name]) <= {first, ""}:
            continue
        found += [f"{name} {first}"] if first else []
        text = text.drop(columns=name)
    return text, ", ".join(found)


def fitted(
    text: pd.DataFrame, width: int, wrapping: Sequence[str], spare: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """`text` in lines of `width` columns, with a space between two of them, and the names of what found no room.

    Args:
        text: cells as text; headers break at their spaces.
        width: of the terminal.
        wrapping: columns of words, which may take several lines; the first of them is given room first.
        spare: columns that may be left out, the first first.
    """
    left_out: list[str] = []
    for name in spare:
        if sum(_least(text, one, wrapping) + 1 for one in text) <= width:
            break
        if name in text:
            text = text.drop(columns=name)
            left_out.append(name)
    widths = {name: _least(text, name, wrapping) for name in text}
    room = width - sum(widths.values()) - len(widths)
    for name in (name for name in wrapping if name in text):
        more = max(0, min(room, _most(text, name) - widths[name]))
        widths[name], room = widths[name] + more, room - more
        text = text.assign(**{name: [wrapped(cell, widths[name]) for cell in text[name]]})
    return text, left_out


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width` columns. A word is broken only where it is longer: behind one of `_/=,;+`, or
    where it has none of these, anywhere.

    >>> print(wrapped("spatial_svd macs=0.5 again", 12))
    spatial_svd
    macs=0.5
    again
    >>> wrapped("spatial_svd_weights", 12).split()
    ['spatial_svd_', 'weights']
    """
    lines, line = [], ""
    for word in text.split(" "):
        if cell_len(joined := f"{line} {word}" if line else word) <= width:
            line = joined
            continue
        lines += [line] if line else []
        *whole, line = _pieces(word, width)
        lines += whole
    return "\n".join([*lines, line])


def _pieces(word: str, width: int) -> list[str]:
    pieces, line = [], ""
    for part in filter(None, INSIDE.findall(word)):
        if line and cell_len(line + part) > width:
            pieces.append(line)
            line = ""
        line += part
        while cell_len(line) > width and len(line) > 1:
            fits = max([k for k in range(1, len(line)) if cell_len(line[:k]) <= width], default=1)
            pieces.append(line[:fits])
            line = line[fits:]
    return [*pieces, line]


def _most(text: pd.DataFrame, name: str) -> int:
    return max([*map(cell_len, name.split(" ")), *map(cell_len, text[name])])


def _least(text: pd.DataFrame, name: str, wrapping: Sequence[str]) -> int:
    if name not in wrapping:
        return _most(text, name)
    words = [word for cell in text[name] for word in cell.split(" ")]
    heads = max(map(cell_len, name.split(" ")))
    return max(heads, min(LONGEST_WORD, max(map(cell_len, words), default=0)))
