"""Code that may draw random numbers, and leaves the global generators as they were."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


@contextmanager
def kept_generators() -> Iterator[None]:
    """The global generators of torch (on every device), NumPy and Python are afterwards where they were.

    >>> before = torch.initial_seed()
    >>> with kept_generators():
    ...     _ = torch.manual_seed(before + 1)
    >>> torch.initial_seed() == before
    True
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def drawn_apart(batches: Iterable[T], seed: int) -> Iterator[T]:
    """What `batches` gives, drawn from torch's global generator as if that began at `seed` and were nobody else's.

    Between two of them, and afterwards, the generator is where its other users have left it.

    >>> before = torch.get_rng_state()
    >>> orders = [[one.tolist() for one in drawn_apart((torch.randperm(3) for _ in range(2)), 0)] for _ in range(2)]
    >>> orders[0] == orders[1], torch.equal(torch.get_rng_state(), before)
    (True, True)
    """
    own, left = torch.Generator().manual_seed(seed).get_state(), None
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(own)
            left = iter(batches) if left is None else left
            try:
                batch = next(left)
            except StopIteration:
                return
            finally:
                own = torch.get_rng_state()
        yield batch
