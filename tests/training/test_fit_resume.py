"""Going on after an interruption ends with the bits of a fit left alone."""

import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from lowrank_exp.training.checkpoint import FIT
from lowrank_exp.training.schedules import cosine
from support import interrupted_fit
from support.fits import fit_by_options_


class InterruptionError(Exception):
    pass


class SeededOrder(Sampler):
    """An order that is a function of seed and epoch; remembers the epochs it was asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch, self.asked = count, 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        self.asked.append(self.epoch)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(100 + self.epoch))
        return iter(order.tolist())


def images(count: int = 40) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 1, 6, 6, generator=draw), torch.randint(0, 3, (count,), generator=draw))


def plain() -> DataLoader:
    return DataLoader(images(), batch_size=16, shuffle=True)


def with_generator() -> DataLoader:
    return DataLoader(images(), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(5))


def with_epochs() -> DataLoader:
    return DataLoader(images(), batch_size=16, sampler=SeededOrder(40))


def fit(loader: DataLoader, checkpoint: Path | None, optimizer=None, stop_after: int | None = None, **options):
    """Train for five epochs, or until `stop_after` of them are done."""
    net = interrupted_fit.network()
    heard = []

    def on_epoch(metrics):
        heard.append(metrics["epoch"])
        if metrics["epoch"] == stop_after:
            raise InterruptionError

    history = fit_by_options_(
        net,
        loader,
        DataLoader(images(20), batch_size=8),
        epochs=5,
        optimizer=optimizer or partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        schedule=cosine,
        seed=3,
        checkpoint=checkpoint,
        device="cpu",
        on_epoch=on_epoch,
        progress=False,
        **options,
    )
    return net, [{k: v for k, v in line.items() if k != "seconds"} for line in history], heard


def assert_equal_states(ours: dict, theirs: dict) -> None:
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("loader", [plain, with_generator, with_epochs])
@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.AdamW, lr=0.01)]
)
def test_going_on_equals_a_fit_left_alone(loader, optimizer, tmp_path):
    alone, alone_history, _ = fit(loader(), None, optimizer)
    for stop in (0, 2, 3):  # interrupted three times
        with pytest.raises(InterruptionError):
            fit(loader(), tmp_path / "last.ckpt", optimizer, stop_after=stop)
    torch.rand(17)  # the caller's generators are elsewhere meanwhile
    ours, history, heard = fit(loader(), tmp_path / "last.ckpt", optimizer)
    assert_equal_states(ours.state_dict(), alone.state_dict())
    assert history == alone_history
    assert heard == [0, 1, 2, 3, 4]


def test_going_on_in_channels_last(tmp_path):
    alone, _, _ = fit(plain(), None, channels_last=True)
    with pytest.raises(InterruptionError):
        fit(plain(), tmp_path / "last.ckpt", stop_after=1, channels_last=True)
    ours, _, _ = fit(plain(), tmp_path / "last.ckpt", channels_last=True)
    assert_equal_states(ours.state_dict(), alone.state_dict())


def test_the_sampler_is_told_the_right_epoch(tmp_path):
    loader = with_epochs()
    with pytest.raises(InterruptionError):
        fit(loader, tmp_path / "last.ckpt", stop_after=1)
    assert loader.sampler.asked == [0, 1]
    later = with_epochs()
    fit(later, tmp_path / "last.ckpt")
    assert later.sampler.asked == [2, 3, 4]


def test_worker_processes_draw_the_same(tmp_path):
    def noisy() -> DataLoader:
        return DataLoader(interrupted_fit.NoisyImages(), batch_size=16, shuffle=True, num_workers=1)

    alone, _, _ = fit(noisy(), None)
    with pytest.raises(InterruptionError):
        fit(noisy(), tmp_path / "last.ckpt", stop_after=2)
    ours, _, _ = fit(noisy(), tmp_path / "last.ckpt")
    assert_equal_states(ours.state_dict(), alone.state_dict())


def test_a_finished_fit_is_not_repeated(tmp_path):
    net, history, _ = fit(plain(), tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    again, stored, heard = fit(plain(), tmp_path / "last.ckpt")
    assert_equal_states(again.state_dict(), net.state_dict())
    assert stored == history
    assert heard == [0, 1, 2, 3, 4]
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_checkpoint_is_plain_and_alone_in_its_folder(tmp_path):
    fit(plain(), tmp_path / "folder" / "last.ckpt")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["last.ckpt"]
    stored = torch.load(tmp_path / "folder" / "last.ckpt", weights_only=True)
    assert [line["epoch"] for line in stored[FIT]["history"]] == [0, 1, 2, 3, 4]
    assert len(stored["optimizer_states"]) == 1
    assert stored["lr_schedulers"][0]["last_epoch"] == 15


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_unreadable_checkpoint(content, tmp_path):
    path = tmp_path / "last.ckpt"
    if content is None:
        fit(plain(), path)
        content = path.read_bytes()[:-2000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint .* Delete it"):
        fit(plain(), path)
    assert path.read_bytes() == content


def test_a_file_of_something_else(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint"):
        fit(plain(), tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 6}, "epochs is 5 there and 6 here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"label_smoothing": 0.1}, "label_smoothing is 0.0 there and 0.1 here"),
        ({"schedule": partial(cosine, final=0.5)}, "schedule gives other factors"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.2, momentum=0.9)}, "lr is 0.1 there and 0.2 here"),
        ({"optimizer": partial(torch.optim.Adam, lr=0.1)}, "optimizer is SGD there and Adam here"),
    ],
)
def test_checkpoint_of_another_fit(change, message, tmp_path):
    with pytest.raises(InterruptionError):
        fit(plain(), tmp_path / "last.ckpt", stop_after=1)
    arguments = {
        "epochs": 5,
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "schedule": cosine,
        "seed": 3,
        "checkpoint": tmp_path / "last.ckpt",
        "device": "cpu",
        "progress": False,
    }
    with pytest.raises(ValueError, match=rf"last\.ckpt is the checkpoint of another fit: .*{message}"):
        fit_by_options_(interrupted_fit.network(), plain(), plain(), **{**arguments, **change})


def test_checkpoint_of_another_network(tmp_path):
    with pytest.raises(InterruptionError):
        fit(plain(), tmp_path / "last.ckpt", stop_after=1)
    message = r"network: 1\.weight is \[4\] there and \[3, 36\] here, .*and 6 more"
    with pytest.raises(ValueError, match=message):
        fit_by_options_(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
            plain(),
            plain(),
            epochs=5,
            optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            schedule=cosine,
            seed=3,
            checkpoint=tmp_path / "last.ckpt",
            progress=False,
        )


@pytest.mark.slow
def test_killed_three_times(tmp_path):
    """kill -9 at random moments: some within an epoch, some maybe while the checkpoint is written."""
    checkpoint, result = tmp_path / "last.ckpt", tmp_path / "result.pt"
    script = [sys.executable, interrupted_fit.__file__, str(checkpoint), str(result)]
    moments = random.Random(0)
    done = [0]
    for _ in range(3):
        process = subprocess.Popen(script)
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        deadline = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == written:
            assert process.poll() is None, "the fit ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done.append(len(torch.load(checkpoint, weights_only=True)[FIT]["history"]))
    assert done == sorted(set(done))  # every life got further
    assert done[-1] < interrupted_fit.EPOCHS
    subprocess.run(script, check=True)
    ours = torch.load(result, weights_only=True)
    state, history = interrupted_fit.run(None)
    assert_equal_states(ours["state"], state)
    assert ours["history"] == history
