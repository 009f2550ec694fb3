"""Two processes train what one trains."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.data import EpochBatches, ImageBatches, batch_loader
from lowrank_exp.models import cifar_resnet
from lowrank_exp.training.checkpoint import FIT
from lowrank_exp.training.distributed import IGNORED, SharedLoader, places
from lowrank_exp.training.schedules import cosine
from support.cells import cells
from support.fits import fit_by_options_

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


class InterruptionError(Exception):
    pass


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def loader(count: int, batch_size: int, shuffle: bool = False) -> DataLoader:
    draw = np.random.default_rng(count)
    images = torch.from_numpy(draw.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8))
    labels = images[:, 0, :, :6].float().view(count, 8, 3, 2).mean((1, 3)).argmax(1)  # the brightest strip
    mean, std = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.25)
    batches = ImageBatches(images, labels, torch.arange(count), mean, std, crop_padding=1, flip=True, seed=2)
    return batch_loader(batches, EpochBatches(count, batch_size, seed=5, shuffle=shuffle))


def fit(devices: int, checkpoint: Path | None = None, net: nn.Module | None = None, **options):
    """63 images in batches of 16 leave 15, of which one process gets 8 and the other 7; 9 and 8 of validation 17."""
    net = network() if net is None else net
    arguments = {"epochs": 3, "optimizer": SGD, "schedule": cosine, "seed": 3, "device": "cpu", "progress": False}
    arguments |= {"label_smoothing": 0.1} | options
    history = fit_by_options_(
        net, loader(63, 16, shuffle=True), loader(17, 17), checkpoint=checkpoint, devices=devices, **arguments
    )
    return net, [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def assert_near(ours: dict, theirs: dict, tolerance: float) -> None:
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(capfd):
    """Four batches in groups of three: a step of three batches, one of the incomplete fourth."""
    heard = []
    ours, history = fit(2, accumulate=3, on_epoch=lambda metrics: heard.append((os.getpid(), metrics)))
    theirs, expected = fit(1, accumulate=3)
    for line, other in zip(history, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    assert (theirs[3].weight - network()[3].weight).abs().max() > 0.01
    assert_near(ours.state_dict(), theirs.state_dict(), 1e-5)
    assert [pid for pid, _ in heard] == [os.getpid()] * 3
    assert [{k: v for k, v in line.items() if k != "seconds"} for _, line in heard] == history
    assert all(parameter.grad is None for parameter in ours.parameters())
    assert capfd.readouterr() == ("", "")


@dataclass(frozen=True)
class ForTwoEpochs:
    def measure(self, network: nn.Module) -> dict[str, float]:
        return {"length": float(next(network.parameters()).detach().square().sum())}

    def met(self, history: list) -> bool:
        return len(history) == 2


def residual() -> nn.Module:
    """With norms that do not depend on the other images of a batch, so not on how it is shared out."""
    torch.manual_seed(0)
    net = cifar_resnet(depth=8, num_classes=3, in_channels=1, input_size=8)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, nn.GroupNorm(1, module.num_features))
    return net


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "options", "epochs"),
    [
        (network, {"until": ForTwoEpochs(), "quant_noise": {"phi": "int8", "p": 0.5}}, 2),
        (residual, {"stochastic_depth": {"survival": "uniform", "last": 0.5}}, 3),
    ],
)
def test_options_have_their_effect_in_two_processes_as_in_one(build, options, epochs):
    (ours, history), (theirs, expected) = (fit(devices, net=build(), **options) for devices in (2, 1))
    assert len(history) == len(expected) == epochs
    assert [line["train_loss"] for line in history] == pytest.approx(
        [line["train_loss"] for line in expected], rel=1e-5
    )
    assert [line.get("length") for line in history] == pytest.approx([line.get("length") for line in expected])
    assert_near(ours.state_dict(), theirs.state_dict(), 1e-5)
    plain, _ = fit(1, net=build(), epochs=epochs)
    assert max((a - b).abs().max() for a, b in zip(plain.parameters(), theirs.parameters(), strict=True)) > 1e-4


@pytest.mark.slow
def test_going_on_equals_a_fit_left_alone(tmp_path):
    def stop(metrics):
        raise InterruptionError

    epochs = 60  # the processes train on until they hear that nobody wants it: far from the end
    alone, alone_history = fit(2, epochs=epochs)
    ours, checkpoint = network(), tmp_path / "last.ckpt"
    with pytest.raises(InterruptionError):
        fit(2, checkpoint, ours, on_epoch=stop, epochs=epochs)
    assert_near(ours.state_dict(), network().state_dict(), 0.0)  # an interrupted fit leaves the network as it was
    stored = torch.load(checkpoint, weights_only=True)[FIT]
    assert len(stored["history"]) < epochs
    first, second = (each["torch"] for each in stored["generators"])
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="devices is 2 there and 1 here"):
        fit(1, checkpoint, ours, epochs=epochs)
    ours, history = fit(2, checkpoint, ours, epochs=epochs)
    assert_near(ours.state_dict(), alone.state_dict(), 0.0)
    assert history == alone_history


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_here():
    with pytest.raises(FloatingPointError, match=r"at epoch 0, step \d of 4, learning rate 1e\+20"):
        fit(2, optimizer=partial(torch.optim.SGD, lr=1e20), schedule=None)


def parts(sampler: EpochBatches, ranks: int) -> list[list[list[int]]]:
    shared = []
    for rank in range(ranks):
        sampler.share_out(rank, ranks)
        shared.append([positions.tolist() for _, positions in sampler])
    return shared


@cells("count", [9, 10, 16])
@cells("ranks", [1, 2, 3])
def test_own_images_of_all_processes_are_the_batch(count, ranks):
    whole = [positions.tolist() for _, positions in EpochBatches(count, 8, seed=1, shuffle=True)]
    sampler = EpochBatches(count, 8, seed=1, shuffle=True)
    together = [[] for _ in whole]
    for rank, given in enumerate(parts(sampler, ranks)):
        sampler.share_out(rank, ranks)
        for batch, part, (own, size), joined in zip(whole, given, sampler.shares, together, strict=True):
            assert len(part) >= min(2, len(batch))
            assert len(set(part)) == len(part)
            assert set(part) <= set(batch)
            assert size == len(batch)
            joined += part[:own]
    assert together == whole


def test_images_that_fill_a_part_up_do_not_count():
    batches = list(SharedLoader(loader(5, 3), 1, 2))
    _, labels = next(iter(loader(5, 3)))
    assert [len(images) for images, _, _ in batches] == [2, 2]
    assert batches[0][1].tolist() == [labels[2].item(), IGNORED]
    assert batches[1][1][1].item() == IGNORED
    assert [whole for _, _, whole in batches] == [3, 2]


def test_refusals():
    with pytest.raises(ValueError, match="devices is 2, and snapshots of the weights are kept in one process only"):
        fit(2, snapshots=[0])
    plain = DataLoader(TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)), batch_size=2)
    arguments = {"epochs": 1, "optimizer": SGD, "seed": 0, "checkpoint": None, "device": "cpu", "progress": False}
    with pytest.raises(ValueError, match="devices is 2, and train_loader cannot share its batches out"):
        fit_by_options_(network(), plain, None, schedule=None, devices=2, **arguments)
    with pytest.raises(ValueError, match=r"sent to worker processes, which failed.*at the top of a module"):
        fit_by_options_(network(), loader(8, 4), None, schedule=lambda progress: 1.0, devices=2, **arguments)
    for devices in (0, 1.0, True):
        with pytest.raises(ValueError, match=f"devices is {devices}; allowed is an integer"):
            fit(devices)
    with pytest.raises(ValueError, match="on mps:0 only one process trains"):
        places(torch.device("mps", 0), 2)
