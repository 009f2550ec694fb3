"""The loss of twenty steps, held against a file: a change of the training's numbers must be meant.

To write the file anew: python tests/training/test_golden_loss.py
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training.schedules import cosine
from support.fits import fit_by_options_

GOLDEN = Path(__file__).with_name("golden_loss.txt")


def losses() -> list[float]:
    """One step per epoch: the epoch's training loss is the step's."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.normal(size=(32, 1, 12, 12)).astype(np.float32))
    labels = torch.from_numpy(draw.integers(0, 4, 32))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 4),
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=32)
    history = fit_by_options_(
        network,
        loader,
        loader,
        epochs=20,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
        schedule=partial(cosine, warmup=0.1),
        seed=0,
        checkpoint=None,
        device="cpu",
        label_smoothing=0.05,
        progress=False,
    )
    return [line["train_loss"] for line in history]


def test_golden_loss():
    golden = [float(line.split()[1]) for line in GOLDEN.read_text().splitlines()]
    assert losses() == pytest.approx(golden, rel=1e-4)
    assert len(golden) == 20
    assert golden[-1] < 0.65 * golden[0]


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{step} {loss!r}\n" for step, loss in enumerate(losses())))
