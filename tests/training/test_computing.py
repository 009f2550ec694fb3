"""Precision, accumulation, compilation and memory format of a fit: what they change, and what they leave."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import evaluate
from lowrank_exp.training.memory_format import channels_last_gains
from lowrank_exp.training.schedules import cosine
from support.fits import fit_by_options_

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def images(count: int = 44) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, 6, 6, generator=draw)
    return TensorDataset(x, x.mean((2, 3)).argmax(1))


def loader(batch_size: int) -> DataLoader:
    """Without shuffling: the batches of one size are parts of those of its multiples."""
    return DataLoader(images(), batch_size=batch_size)


def fit(net, batch_size=8, **options):
    arguments = {"epochs": 3, "optimizer": SGD, "schedule": cosine, "seed": 3, "checkpoint": None, "device": "cpu"}
    arguments |= {"label_smoothing": 0.1, "progress": False} | options
    history = fit_by_options_(net, loader(batch_size), DataLoader(images(20), batch_size=7), **arguments)
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def test_accumulated_batches_equal_the_large_batch():
    """44 images: five batches of 8 and one of 4, in groups of three: 24 and 20 images, as batches of 24."""
    ours, theirs = network(), network()
    history, expected = fit(ours, 8, accumulate=3), fit(theirs, 24)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    for line, other in zip(history, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-6)
    assert expected[-1]["train_loss"] < 0.8 * expected[0]["train_loss"]


def test_accumulation_goes_on_after_an_interruption(tmp_path):
    def stop(metrics):
        if metrics["epoch"] == 1:
            raise InterruptedError

    alone, ours = network(), network()
    expected = fit(alone, accumulate=4)
    with pytest.raises(InterruptedError):
        fit(ours, accumulate=4, checkpoint=tmp_path / "last.ckpt", on_epoch=stop)
    with pytest.raises(ValueError, match="accumulate is 4 there and 2 here"):
        fit(ours, accumulate=2, checkpoint=tmp_path / "last.ckpt")
    assert fit(ours, accumulate=4, checkpoint=tmp_path / "last.ckpt") == expected
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in alone.state_dict().items())


def test_divergence_names_the_step_of_the_group():
    net = network()
    data = images(40)
    data.tensors[0][25] = float("inf")  # the fourth batch of 8
    message = r"the training loss is nan at epoch 0, step 1 of 3, learning rate 0\.1"
    with pytest.raises(FloatingPointError, match=message):
        fit_by_options_(
            net,
            DataLoader(data, batch_size=8),
            None,
            epochs=1,
            optimizer=SGD,
            schedule=None,
            seed=0,
            checkpoint=None,
            device="cpu",
            accumulate=2,
            progress=False,
        )


def test_bf16_is_autocast_and_the_loss_float32():
    """The first step's loss and gradient are those of a hand-written autocast pass."""
    ours, theirs = network(), network()
    one = partial(torch.optim.SGD, lr=1.0)
    history = fit(ours, 44, epochs=1, precision="bf16", optimizer=one, schedule=None, channels_last=False)
    x, y = images().tensors
    with torch.autocast("cpu", torch.bfloat16):
        logits = theirs(x)
    loss = cross_entropy(logits.float(), y, label_smoothing=0.1)
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    for mine, parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, parameter - parameter.grad, rtol=1e-6, atol=1e-6)
    plain = fit(network(), 44, epochs=1, optimizer=one, schedule=None)
    assert 1e-7 < abs(plain[0]["train_loss"] / history[0]["train_loss"] - 1) < 1e-2
    assert 1e-7 < abs(plain[0]["val_loss"] / history[0]["val_loss"] - 1) < 3e-2


def counting(monkeypatch) -> list[torch.fx.GraphModule]:
    """`torch.compile` without code generation, which notes every graph that it is handed."""
    torch.compiler.reset()  # of what other tests have compiled: after some variants of a code it stays as it is written
    graphs, compile_ = [], torch.compile

    def note(graph, example):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda what: compile_(what, backend=note))
    return graphs


def test_compiled_once_and_not_per_epoch(monkeypatch, tmp_path):
    graphs = counting(monkeypatch)
    ours, theirs = network(), network()
    history = fit(ours, compile=True, epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert 3 <= len(graphs) <= 6  # a trial, training, validation; their smaller last batches at most once more each
    expected = fit(theirs, epochs=2)
    for line, other in zip(history, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    assert list(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]) == [
        f"network.{name}" for name in theirs.state_dict()
    ]
    graphs.clear()
    fit(network(), compile=True, epochs=6)
    assert 3 <= len(graphs) <= 6


def test_compiled_fit_goes_on(monkeypatch, tmp_path):
    def stop(metrics):
        if metrics["epoch"] == 1:
            raise InterruptedError

    counting(monkeypatch)
    alone, ours = network(), network()
    expected = fit(alone, compile=True)
    with pytest.raises(InterruptedError):
        fit(ours, compile=True, checkpoint=tmp_path / "last.ckpt", on_epoch=stop)
    assert fit(ours, compile=True, checkpoint=tmp_path / "last.ckpt") == expected
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in alone.state_dict().items())


@pytest.mark.slow
def test_compiled_code_computes_the_same():
    ours, theirs = network(), network()
    history, expected = fit(ours, 44, compile=True), fit(theirs, 44)
    for line, other in zip(history, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_without_a_compiler(monkeypatch):
    def fail(graph, example):
        raise OSError("no such program: g++")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda what: compile_(what, backend=fail))
    net = network()
    with pytest.raises(ValueError, match=r"torch\.compile does not work here on cpu.*such as g\+\+.*compile=false"):
        fit(net, compile=True)
    assert torch.equal(net[0].weight, network()[0].weight)


class Views(nn.Module):
    """Code that reads a convolution's output in the order (C, H, W), as many networks are written."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.linear(x.view(x.shape[0], -1))


def test_a_network_that_cannot_have_channels_last_does_without():
    x = images().tensors[0]
    assert channels_last_gains(network(), x)
    assert not channels_last_gains(network(), x.flatten(1))
    assert not channels_last_gains(network().to("meta"), x.to("meta"))
    views, plain = Views(), Views()
    assert not channels_last_gains(views, x)
    assert fit(views) == fit(plain, channels_last=False)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in views.state_dict().items())
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        fit(Views(), channels_last=True)
    assert evaluate(views, loader(8), "cpu").count == 44


def test_evaluation_in_channels_last_where_it_gains():
    seen = []
    net = network()
    net[0].register_forward_hook(
        lambda m, inputs, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    scores = evaluate(net, loader(8), "cpu")
    x, y = images().tensors
    with torch.no_grad():
        logits = net(x)
    assert all(seen[:-1])
    assert scores.accuracy == (logits.argmax(1) == y).double().mean().item()
    assert scores.loss == pytest.approx(cross_entropy(logits, y).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; allowed are fp32 and bf16"),
        ({"accumulate": 0}, "accumulate is 0; allowed is an integer, 1"),
        ({"compile": "yes"}, "compile is 'yes'; allowed are true and false"),
        ({"channels_last": "yes"}, "channels_last is 'yes'; allowed are true, false and 'auto'"),
    ],
)
def test_ways_to_compute_that_there_are_not(change, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), **change)
