"""The page as one file: the template with its styles, scripts and data inside."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lowrank_exp.files.whole import write_whole

PART = re.compile(r"\{\{ ([\w.]+) \}\}")  # of the template: the name of a file beside it, or of a text
UNSEEN = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(data: Mapping[str, Any]) -> str:
    """The whole page. Texts of `data` stand in one block of JSON, in which nothing is markup."""
    folder = files("lowrank_exp.report.html") / "page"

    def part(match: re.Match) -> str:
        return as_json(data) if match[1] == "data" else (folder / match[1]).read_text(encoding="utf-8")

    return PART.sub(part, (folder / "page.html").read_text(encoding="utf-8"))


def as_json(data: Any) -> str:
    """JSON that can stand in a page: no character in it begins a tag or an entity, or ends a line of script.

    >>> as_json({"a": "</script>"})
    '{"a":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)  # no file of text can hold these
    return re.sub("[<>&\u2028\u2029]", lambda match: UNSEEN[match[0]], text)


def write_page(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    text = page(data)
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
