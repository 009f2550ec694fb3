"""What training through `fit_` costs over a bare PyTorch loop on the same tensors.

    python benchmarks/training.py --json training.json

The peer is a floor: forward, backward, optimizer and schedule step, and nothing else; no accuracy, no validation, no
non-finite check. Ours is the whole call: setting Lightning up, the counts, one validation batch per epoch. Both read
the same batches, run in one process, alternating, after one warm-up each; medians. The error is the largest relative
difference of a trained weight: 0, both compute the same bits.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lowrank_exp.models import cifar_resnet, lenet5
from lowrank_exp.training import Recipe, fit_
from lowrank_exp.training.schedules import cosine

BATCH_SIZE = 64
EPOCHS = 2
OPTIMIZER = partial(SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)

# case: (network, shape of an image, batches per epoch)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "loop lenet5": (lenet5, (1, 32, 32), 250),
    "loop resnet20": (partial(cifar_resnet, depth=20), (3, 32, 32), 6),
}


def bare_loop(network: nn.Module, loader: DataLoader) -> None:
    """The floor."""
    optimizer = OPTIMIZER(network.parameters())
    total = EPOCHS * len(loader)
    scheduler = LambdaLR(optimizer, lambda step: cosine(min(step, total - 1) / total))
    network.train()
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimizer.step()
            scheduler.step()


def through_fit(network: nn.Module, loader: DataLoader, val_loader: DataLoader) -> None:
    """Ours."""
    fit_(
        network,
        loader,
        val_loader,
        Recipe(epochs=EPOCHS, optimizer=OPTIMIZER, schedule=cosine),
        seed=0,
        device="cpu",
        progress=False,
    )


def batches(count: int, shape: tuple[int, int, int]) -> DataLoader:
    """Random images in memory, a whole batch taken at once."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(count * BATCH_SIZE, *shape, generator=draw)
    labels = torch.randint(0, 10, (len(images),), generator=draw)
    data = TensorDataset(images, labels)
    whole = BatchSampler(SequentialSampler(data), BATCH_SIZE, drop_last=False)
    return DataLoader(data, sampler=whole, batch_size=None)


def trained(make: Callable[[], nn.Module], train: Callable[[nn.Module], None]) -> tuple[float, nn.Module]:
    """Seconds of one training of a fresh network, and the network."""
    torch.manual_seed(0)
    network = make()
    began = time.perf_counter()
    train(network)
    return time.perf_counter() - began, network


def largest_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """max |w - w'| / max |w'| over all weights; below 1e-6 counts as 0."""

    def relative(a: Tensor, b: Tensor) -> float:
        return ((a - b).abs().max() / b.abs().max()).item()

    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    error = max(relative(a.detach(), b.detach()) for a, b in pairs)
    return error if error >= 1e-6 else 0.0


def measure(case: str, repeats: int) -> dict:
    """The record of one case."""
    make, shape, count = CASES[case]
    loader, val_loader = batches(count, shape), batches(1, shape)
    sides = {"ours": lambda net: through_fit(net, loader, val_loader), "peer": lambda net: bare_loop(net, loader)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    networks = {}
    for repeat in range(repeats + 1):
        for side, train in sides.items():
            taken, networks[side] = trained(make, train)
            if repeat > 0:
                seconds[side].append(taken)
    ours, peer = (statistics.median(seconds[side]) for side in ("ours", "peer"))
    return {
        "case": case,
        "ours": ours,
        "peer": peer,
        "peer_name": "bare PyTorch loop",
        "ratio": peer / ours,
        "error_ours": largest_difference(networks["ours"], networks["peer"]),
        "error_peer": 0.0,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of fit_ over a bare PyTorch loop.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the records there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one (may be repeated)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, batch {BATCH_SIZE}, medians of {arguments.repeats}")
    print(f"{'case':<16}{'fit_ s':>10}{'bare loop s':>14}{'ratio':>8}{'fit_ / bare':>14}")
    records = []
    for case in arguments.case or CASES:
        record = measure(case, arguments.repeats)
        records.append(record)
        ours, peer = record["ours"], record["peer"]
        print(f"{case:<16}{ours:>10.3f}{peer:>14.3f}{record['ratio']:>8.3f}{ours / peer:>14.3f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
