"""Runtimes in words, and what networks take in them, as results record it. No torch here."""

from collections.abc import Mapping
from typing import Any

DENSE_MS, SMALL_MS = "_dense_ms", "_small_ms"  # behind the name of a runtime, in the values of a phase


def runtime_in_words(runtime: Mapping[str, Any]) -> str:
    """The name, version and threads of a runtime, as far as it tells them.

    >>> runtime_in_words({"name": "eager", "version": "2.12", "threads": 1}), runtime_in_words({"name": "mine"})
    ('eager 2.12, 1 thread', 'mine')
    """
    name = " ".join(str(runtime[key]) for key in ("name", "version") if runtime.get(key) is not None)
    threads = runtime.get("threads")
    return name if threads is None else f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def list_speeds(values: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Runtime, milliseconds of the dense and of the small network, of the values of a phase that has them.

    >>> list_speeds({"eager_dense_ms": 4.0, "eager_small_ms": 2.0, "budget": 0.5})
    [('eager', 4.0, 2.0)]
    """
    names = [name.removesuffix(DENSE_MS) for name in values if name.endswith(DENSE_MS)]
    return [(name, values[name + DENSE_MS], values[name + SMALL_MS]) for name in names if name + SMALL_MS in values]
