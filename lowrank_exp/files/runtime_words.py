"""A runtime in words, as results record it. No torch here."""

from collections.abc import Mapping
from typing import Any


def runtime_in_words(runtime: Mapping[str, Any]) -> str:
    """The name, version and threads of a runtime, as far as it tells them.

    >>> runtime_in_words({"name": "eager", "version": "2.12", "threads": 1}), runtime_in_words({"name": "mine"})
    ('eager 2.12, 1 thread', 'mine')
    """
    name = " ".join(str(runtime[key]) for key in ("name", "version") if runtime.get(key) is not None)
    threads = runtime.get("threads")
    return name if threads is None else f"{name}, {threads} thread{'' if threads == 1 else 's'}"
