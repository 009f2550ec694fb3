"""The random generators a fit draws from: Python's, NumPy's, torch's, the device's and the loaders' own.

The states are plain numbers and byte tensors, so that they load under `torch.load(weights_only=True)`.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lowrank_exp.checks import is_whole


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every device's).

    Raises:
        ValueError: the seed is not an integer in [0, 2**32), which NumPy asks for.
    """
    if not is_whole(seed, 0, 2**32 - 1):
        raise ValueError(f"seed is {seed!r}; allowed is an integer from 0 to 2**32 - 1")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def states(device: torch.device, own: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """The states of all generators; `own` are those of loaders and samplers, in a fixed order."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "own": [generator.get_state() for generator in own],
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(saved: dict[str, Any], device: torch.device, own: Sequence[torch.Generator] = ()) -> None:
    """Put the generators back where `states` found them.

    A state taken on one kind of device says nothing of another kind's generator: that one is left as it is.
    """
    version, words, gauss_next = saved["python"]
    random.setstate((version, tuple(words), gauss_next))
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(saved["torch"])
    for generator, state in zip(own, saved["own"], strict=True):
        generator.set_state(state)
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
    if device.type == "mps" and "mps" in saved:
        torch.mps.set_rng_state(saved["mps"])


def owned(*loaders: Any) -> list[torch.Generator]:
    """The generators that the loaders and their samplers hold themselves, each once, in the order met."""
    found: dict[int, torch.Generator] = {}
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        batches = getattr(loader, "batch_sampler", None)
        for holder in (loader, sampler, batches, getattr(batches, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found.setdefault(id(generator), generator)
    return list(found.values())


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the caller's generators stand afterwards where they stood before."""
    saved = states(device)
    try:
        yield
    finally:
        restore(saved, device)
