"""How often Python looks for garbage in cycles. No torch here."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 10_000  # containers made and not freed between two looks; Python's own is 700


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Fewer looks for cycles, while most of what is made is kept: every look would go through it.

    Not for figures, which are large and full of cycles.
    """
    before = gc.get_threshold()
    gc.set_threshold(SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
