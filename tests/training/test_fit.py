import io
import logging
import math
import random
import re
from functools import partial

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lowrank_exp.text.terminal import PASSING
from lowrank_exp.training.progress import EpochProgress
from lowrank_exp.training.schedules import cosine, steps
from support.fits import fit_by_options_

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )


def images(count: int = 40) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 1, 6, 6, generator=draw), torch.randint(0, 3, (count,), generator=draw))


def fit(net, train=None, val=None, **changes):
    arguments = {
        "epochs": 3,
        "optimizer": SGD,
        "schedule": None,
        "seed": 3,
        "checkpoint": None,
        "device": "cpu",
        "progress": False,
    }
    train = DataLoader(images(), batch_size=16, shuffle=True) if train is None else train
    val = DataLoader(images(20), batch_size=8) if val is None else val
    return fit_by_options_(net, train, val, **{**arguments, **changes})


def bare_loop(net, optimizer, schedule, seed, smoothing):
    """What PyTorch's tutorial would write."""
    train = DataLoader(images(), batch_size=16, shuffle=True)
    val = DataLoader(images(20), batch_size=8)
    torch.manual_seed(seed)
    stepper = optimizer(net.parameters())
    base = stepper.param_groups[0]["lr"]
    step, total = 0, 3 * len(train)
    for _ in range(3):
        net.train()
        for x, y in train:
            stepper.param_groups[0]["lr"] = base * schedule(step / total)
            stepper.zero_grad()
            cross_entropy(net(x), y, label_smoothing=smoothing).backward()
            stepper.step()
            step += 1
        net.eval()
        with torch.no_grad():
            for x, _ in val:
                net(x)
    return net


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [(SGD, partial(cosine, warmup=0.2)), (partial(torch.optim.Adam, lr=0.01), partial(steps, at=(0.4,)))],
)
def test_bit_for_bit_a_bare_loop(optimizer, schedule):
    ours = network()
    fit(ours, optimizer=optimizer, schedule=schedule, label_smoothing=0.1, channels_last=False)
    theirs = bare_loop(network(), optimizer, schedule, seed=3, smoothing=0.1)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert not torch.equal(ours[0].weight, network()[0].weight)


def numpy_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hit = log_p[np.arange(len(labels)), labels]
    return float((-(1 - smoothing) * hit - smoothing * log_p.mean(1)).mean())


def test_history_is_numpys():
    """At learning rate 0 all images meet the same weights; 40 images in batches of 16 leave 8."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    history = fit(net, optimizer=partial(torch.optim.SGD, lr=0.0), schedule=None, epochs=2, label_smoothing=0.2)
    weight, bias = (p.detach().double().numpy() for p in net[1].parameters())
    expected = {}
    for name, data, smoothing in (("train", images(), 0.2), ("val", images(20), 0.0)):
        logits = data.tensors[0].flatten(1).double().numpy() @ weight.T + bias
        labels = data.tensors[1].numpy()
        expected[f"{name}_loss"] = pytest.approx(numpy_loss(logits, labels, smoothing), rel=1e-6)
        expected[f"{name}_accuracy"] = (logits.argmax(1) == labels).mean()
    for epoch, line in enumerate(history):
        seconds = line.pop("seconds")
        assert 0 < seconds < 60
        assert line == {"epoch": epoch, "learning_rate": 0.0, **expected}
    assert len(history) == 2


def test_learning_rate_is_the_epochs_first():
    history = fit(network(), schedule=partial(cosine, warmup=1 / 3))
    assert [line["learning_rate"] for line in history] == pytest.approx([0.0, 0.1, 0.05], abs=1e-12)


def test_the_callers_generators_are_as_before():
    net = network()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    fit(net)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_nothing_is_left_behind():
    net = network()
    net[3].eval()
    logger = logging.getLogger("pytorch_lightning")
    level, handler = logger.level, torch.is_grad_enabled()
    fit(net)
    assert [module.training for module in net.modules()] == [True, True, True, True, False, True, True]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert (logger.level, torch.is_grad_enabled()) == (level, handler)


def test_a_network_in_eval_mode_is_trained_in_training_mode():
    evaluating, training = network().eval(), network()
    fit(evaluating)
    fit(training)
    assert not evaluating.training
    assert torch.equal(evaluating[0].weight, training[0].weight)
    assert torch.equal(evaluating[1].running_mean, training[1].running_mean)


def test_frozen_parameters_stay():
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    fit(net)
    assert torch.equal(net[0].weight, before)
    assert not torch.equal(net[5].weight, network()[5].weight)


def test_images_in_channels_last_weights_as_they_were():
    class Watched(nn.Conv2d):
        seen = ()

        def forward(self, x):
            formats = x.is_contiguous(memory_format=torch.channels_last), x.is_contiguous()
            self.seen = (*self.seen, (*formats, self.weight.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(Watched(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    data = TensorDataset(torch.randn(32, 2, 6, 6), torch.randint(0, 3, (32,)))
    fit(net, DataLoader(data, batch_size=16), DataLoader(data, batch_size=16), channels_last=True, epochs=1)
    assert net[0].seen == ((True, False, False),) * 4
    assert net[0].weight.is_contiguous()


def test_divergence_names_the_step():
    data = images()
    data.tensors[0][36] = math.inf  # the third batch of 16
    loader = DataLoader(data, batch_size=16)
    message = r"the training loss is nan at epoch 0, step 2 of 3, learning rate 0\.1\. Lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(network(), loader)


def test_divergence_in_the_last_step(tmp_path):
    """Every training loss is finite, the weights after the last step are not."""
    net = network()
    data = images(16)
    loader = DataLoader(data, batch_size=16)
    message = "the validation loss is nan at epoch 0, step 0 of 1"
    with pytest.raises(FloatingPointError, match=message):
        fit(net, loader, optimizer=partial(torch.optim.SGD, lr=1e38), checkpoint=tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()
    assert net[0].training


def test_no_epochs_train_nothing():
    net = network()
    assert fit(net, epochs=0) == []
    assert torch.equal(net[0].weight, network()[0].weight)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1), 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 2.0}, r"epochs is 2\.0"),
        ({"seed": -1}, "seed is -1"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"schedule": lambda progress: -progress}, r"the schedule gives -0\.0625"),
        ({"train": DataLoader(images(3), batch_size=4, drop_last=True)}, "train_loader has no batches"),
        ({"val": DataLoader(Endless())}, "val_loader has no length"),
    ],
)
def test_arguments_out_of_range(change, message):
    net = network()
    with pytest.raises(ValueError, match=message):
        fit(net, **change)
    assert torch.equal(net[0].weight, network()[0].weight)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="nothing to train"):
        fit(network().requires_grad_(False))


def test_without_progress_nothing_is_printed(capfd, recwarn):
    fit(network())
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_a_log_gets_a_line_per_epoch(capfd):
    history = fit(network(), progress=True, label="finetune [x]")
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 3
    for line, metrics in zip(lines, history, strict=True):
        assert line.startswith(f"finetune [x]  epoch {metrics['epoch'] + 1}/3  loss {metrics['train_loss']:.4f}")
        assert f"val {100 * metrics['val_accuracy']:.2f} %" in line
        assert "images/s" in line


@pytest.mark.parametrize("progress", [True, PASSING])
def test_a_terminal_gets_a_bar_that_fits(monkeypatch, progress):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    bar = partial(EpochProgress, console=console)
    monkeypatch.setattr("lowrank_exp.training.carry_out.EpochProgress", bar)
    history = fit(network(), progress=progress)
    assert screen.getvalue().endswith("\x1b[2K") == (progress == PASSING)  # a passing one is wiped out
    last = [line for line in re.split(r"[\r\n]", screen.getvalue()) if "epoch" in line][-1]
    assert "train  epoch 3/3" in last
    assert "9/9" in last
    assert f"val {100 * history[-1]['val_accuracy']:.2f} %" in last
