"""Tables as lines of text that fit a width: names break after their dots, words at their spaces, figures never."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from lowrank_exp.text.plain_text import plain

GAP = "  "
LEAST_NAME = 16  # columns of the terminal, where names are longer
LEAST_WORDS = 24  # the same for a column of words
RULE = "─"

Row = Mapping[str, str]


class Lines(NamedTuple):
    """A table, and its columns that found no room."""

    lines: list[str]
    left_out: list[str]


def table_lines(
    rows: Sequence[Row],
    width: int,
    *,
    total: Row | None = None,
    left: Sequence[str] = (),
    words: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> Lines:
    """Rows under the names of their columns, in lines of at most `width` columns of a terminal.

    The first column has names; the figures of a row stand beside the last part of its name.

    Args:
        rows: cells by column, the same columns in each; at least one.
        width: where even all that may be left out does not make room, lines are longer.
        total: a last row, below a rule.
        left: columns to the left, beside the first one.
        words: columns to the left whose cells may take several lines.
        spare: columns that may be left out, the first first.

    >>> table_lines([{"layer": "encoder.stage1.conv", "rank": "12"}], 24).lines
    ['layer               rank', '────────────────────────', 'encoder.stage1.', 'conv                  12']
    """
    every = [*rows, *([total] if total is not None else [])]
    columns = list(every[0])
    (first, *_), left_out = columns, []
    every = [{column: plain(cell) for column, cell in row.items()} for row in every]
    sizes = {column: max(map(cell_len, (column, *(row[column] for row in every)))) for column in columns}
    least = sizes | {first: min(sizes[first], max(LEAST_NAME, _longest(first, every, lambda name: _pieces(name, 1))))}
    for column in words:
        least[column] = min(sizes[column], max(LEAST_WORDS, _longest(column, every, str.split)))
    for column in spare:
        if column in columns and _across(columns, least) > width:
            columns.remove(column)
            left_out.append(column)
    room = max(0, width - _across(columns, least))
    for column in (first, *(one for one in words if one in columns)):
        sizes[column] = min(least[column] + room, sizes[column])
        room -= sizes[column] - least[column]
    across = _across(columns, sizes)
    lines = [_line({column: column for column in columns}, columns, sizes, {first, *left, *words}), RULE * across]
    for number, row in enumerate(every):
        lines += [RULE * across] if total is not None and number == len(rows) else []
        lines += _lines(row, columns, sizes, left, words)
    return Lines(lines, left_out)


def wrapped_words(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns of a terminal; a word that is longer is broken after its dots alone.

    >>> wrapped_words("chosen by knapsack", 10)
    ['chosen by', 'knapsack']
    """
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cell_len(f"{lines[-1]} {word}") > width:
            lines.append("")
        first, *others = _pieces(word, width) if cell_len(word) > width else [word]
        lines[-1] += f" {first}" if lines[-1] else first
        lines += others
    return lines


def names_by_reason(reasons: Mapping[str, str], width: int) -> list[str]:
    """Every reason once, with the names that have it, in lines of at most `width` columns of a terminal.

    >>> names_by_reason({"conv1": "too thin", "conv2": "chosen", "fc": "too thin"}, 80)
    ['too thin: conv1, fc', 'chosen: conv2']
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    texts = [plain(f"{reason}: {', '.join(of)}") for reason, of in names.items()]
    return [line for text in texts for line in _indented(wrapped_words(text, width - len(GAP)))]


def _indented(lines: list[str]) -> list[str]:
    """Lines of one sentence, the later ones further to the right."""
    return [GAP + line if number else line for number, line in enumerate(lines)]


def _across(columns: Sequence[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes[column] for column in columns) + len(GAP) * (len(columns) - 1)


def _longest(column: str, rows: Sequence[Row], pieces: Callable[[str], list[str]]) -> int:
    """What a column takes at least whose cells may break: its longest piece, or its name."""
    return max(cell_len(piece) for row in rows for piece in (*pieces(row[column]), column))


def _lines(
    row: Row, columns: Sequence[str], sizes: Mapping[str, int], left: Sequence[str], words: Sequence[str]
) -> list[str]:
    """The lines of one row: the parts of its name, figures beside the last one, and the words' further lines."""
    name = columns[0]
    *parts, last = _pieces(row[name], sizes[name])
    cells = {column: wrapped_words(row[column], sizes[column]) for column in words if column in columns}
    lines = [*parts]
    for number in range(max([1, *map(len, cells.values())])):
        here = {column: pieces[number] if number < len(pieces) else "" for column, pieces in cells.items()}
        shown = {**row, name: last, **here} if number == 0 else {**dict.fromkeys(columns, ""), **here}
        lines.append(_line(shown, columns, sizes, {name, *left, *words}))
    return lines


def _line(cells: Row, columns: Sequence[str], sizes: Mapping[str, int], left: set[str]) -> str:
    padded = []
    for column in columns:
        blank = " " * (sizes[column] - cell_len(cells[column]))
        padded.append(cells[column] + blank if column in left else blank + cells[column])
    return GAP.join(padded).rstrip()


def _pieces(name: str, width: int) -> list[str]:
    """A name in pieces of at most `width`, each ending with a dot; a longer word stays whole."""
    pieces = [""]
    *words, last = name.split(".")
    for word in (*(f"{word}." for word in words), last):
        if pieces[-1] and cell_len(pieces[-1] + word) > width:
            pieces.append("")
        pieces[-1] += word
    return pieces
