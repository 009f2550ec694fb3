"""A data set in memory and a small image folder, for the tests of `lowrank_exp.data`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_exp.data import ImageData, LabelledImages


class InMemory(ImageData):
    """Random images of 3 classes: `counts` of each for training, 4 of each for testing."""

    def __init__(self, counts=(20, 30, 11), shape=(3, 8, 8), **common):
        super().__init__(**{"cache_dir": None, **common})
        self.counts = counts
        self.shape = shape
        self.loads = 0

    def _load(self) -> LabelledImages:
        self.loads += 1
        rng = np.random.default_rng(7)
        train = rng.integers(0, 256, (sum(self.counts), *self.shape), dtype=np.uint8)
        test = rng.integers(0, 256, (4 * len(self.counts), *self.shape), dtype=np.uint8)
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        return LabelledImages(
            torch.from_numpy(train),
            torch.from_numpy(rng.permutation(labels)),
            torch.from_numpy(test),
            torch.arange(len(self.counts)).repeat(4),
            tuple("abcdefgh"[: len(self.counts)]),
        )


@pytest.fixture
def in_memory() -> type[InMemory]:
    return InMemory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`train` with 5 and `test` with 2 PNG images in each of the classes cat and dog; RGB, 6 high and 5 wide."""
    rng = np.random.default_rng(3)
    root = tmp_path / "images"
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root
