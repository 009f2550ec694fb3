"""A fit with everything that could go astray when it is killed: run as a script by test_fit_resume.py.

python interrupted_fit.py CHECKPOINT WEIGHTS
"""

import random
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lowrank_exp.training import Recipe, fit_
from lowrank_exp.training.schedules import cosine

EPOCHS = 40


class NoisyImages(Dataset):
    """Random images, disturbed anew each time by Python's, NumPy's and torch's global generators."""

    def __init__(self, count: int = 48) -> None:
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 1, 6, 6, generator=draw)
        self.labels = torch.randint(0, 3, (count,), generator=draw)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.images[index] + noise, self.labels[index]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )


def run(checkpoint: Path | None, pause: float = 0.0) -> tuple[dict[str, Tensor], list[dict]]:
    """Train; the network's state and the history without its seconds."""
    torch.set_num_threads(1)
    net = network()
    images = NoisyImages()
    recipe = Recipe(
        epochs=EPOCHS,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
        schedule=partial(cosine, warmup=0.1),
    )
    history = fit_(
        net,
        DataLoader(images, batch_size=16, shuffle=True),
        DataLoader(images, batch_size=48),
        recipe,
        seed=7,
        checkpoint=checkpoint,
        device="cpu",
        on_epoch=lambda metrics: time.sleep(pause),
        progress=False,
    )
    return net.state_dict(), [{k: v for k, v in line.items() if k != "seconds"} for line in history]


if __name__ == "__main__":
    state, history = run(Path(sys.argv[1]), pause=0.02)
    torch.save({"state": state, "history": history}, sys.argv[2])
