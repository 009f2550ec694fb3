"""Names as they are shown: whatever they hold is seen, and nothing in them is obeyed. No torch here.

Names come from other people's files: classes, layers, rows, machines. A terminal obeys escapes and control characters,
a spreadsheet takes a cell that begins with `=` for a formula.
"""

import functools
import re
import unicodedata

# What a spreadsheet takes for the beginning of a formula, also behind the mark that says it is text.
_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@functools.lru_cache(maxsize=100_000)
def plain(text: str) -> str:
    r"""`text` in one line of characters that are seen: others (controls, directions, breaks) as their escapes.

    >>> print(plain("red\x1b[31m \u202ename\n"))
    red\x1b[31m \u202ename\n
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or unicodedata.category(one) == "Zs" else _escape(one) for one in text)


def plain_lines(text: str) -> str:
    """`plain` of every line of a text that has several."""
    return "\n".join(map(plain, text.split("\n")))


def shortened(text: str, longest: int) -> str:
    """`text`, of more than `longest` characters the first and an ellipsis.

    >>> shortened("spatial", 4)
    'spa…'
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def as_cell(text: str) -> str:
    """`text` as a cell of a CSV file that no spreadsheet computes: marked as text where it looks like a formula.

    >>> as_cell("=1+1"), as_cell("-0.5"), as_cell("spatial_svd")
    ("'=1+1", '-0.5', 'spatial_svd')
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """The text that `as_cell` made a cell of.

    >>> from_cell("'=1+1"), from_cell("'quoted'")
    ('=1+1', "'quoted'")
    """
    return cell[1:] if cell.startswith("'") and as_cell(cell[1:]) == cell else cell


def as_file_name(text: str) -> str:
    """`text` with `_` for what is not fit for a file's name everywhere.

    >>> as_file_name("conv 3x3/../=x")
    'conv_3x3_.._=x'
    """
    return re.sub(r"[^\w.=-]+", "_", text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
