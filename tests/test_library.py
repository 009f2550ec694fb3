"""The library as its users meet it: five lines on a network of torchvision, and the result is plain PyTorch."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

import lowrank_exp
from lowrank_exp import allocate, factorize_, load, measure, profile, save


def build_dense(seed=0):
    torch.manual_seed(seed)
    return torchvision.models.squeezenet1_1(num_classes=7).eval()


@pytest.fixture(scope="module")
def example():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small(tmp_path_factory, example):
    """A compressed network, what it measured before and after, and its file."""
    model = build_dense()
    before = measure(model, example, seconds=0)
    layers = profile(model, example, decomposition="spatial_svd")
    plan = allocate(layers, policy="energy", macs=0.5)
    factorize_(model, plan)
    after = measure(model, example, seconds=0.01)
    path = tmp_path_factory.mktemp("library") / "small.pt"
    save(model, path)
    return model, before, after, path


def test_half_of_the_macs_remain(small):
    model, before, after, _ = small
    assert after.macs / before.macs == pytest.approx(0.5, rel=0.01)
    assert after.weights < before.weights
    biases = before.parameters - before.weights
    assert after.parameters == after.weights + biases
    assert 0.1 < after.latency_ms < 10_000
    new = {type(module) for module in model.modules()} - {type(module) for module in build_dense().modules()}
    assert new == set()  # the factors are nn.Conv2d in nn.Sequential, as the network's own


def test_loaded_it_gives_the_same_output(small, example):
    model, _, after, path = small
    again = load(path, model=build_dense(seed=3))
    with torch.no_grad():
        torch.testing.assert_close(again(example), model(example), rtol=0, atol=0)
    assert measure(again, example, seconds=0).macs == after.macs


def test_loaded_it_can_be_exported(small, example, tmp_path):
    _, _, after, path = small
    model = load(path, model=build_dense())
    done = lowrank_exp.export(model, tmp_path / "small.onnx", example, metadata={"classes": ["a", "b"]})
    assert done.difference < 1e-5
    assert done.equal_predictions == 1
    said = lowrank_exp.export.read_metadata(tmp_path / "small.onnx")
    assert (said["macs"], said["classes"]) == (after.macs, ["a", "b"])


def test_it_trains_on(small, example):
    _, _, _, path = small
    model = load(path, model=build_dense())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(example), torch.tensor([1, 4]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert 0 < losses[-1] < losses[0]


def imported(statement, *names):
    """Which of `names` are modules after `statement` in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*(name for name in {names} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_import_alone_brings_no_torch():
    assert imported("import lowrank_exp", "torch", "torchvision", "numpy", "hydra", "wandb") == []


def test_the_library_brings_no_lightning_hydra_or_wandb():
    unwanted = ["pytorch_lightning", "hydra", "omegaconf", "wandb"]
    assert imported("from lowrank_exp import *", "torch", *unwanted) == ["torch"]


def test_public_names():
    for name in lowrank_exp.__all__:
        public = getattr(lowrank_exp, name)
        assert callable(public)
        assert public.__name__.rpartition(".")[2] == name
    assert set(lowrank_exp.__all__) <= set(dir(lowrank_exp))
    assert lowrank_exp.__version__ == "0.2.0"
    with pytest.raises(AttributeError, match="module 'lowrank_exp' has no attribute 'compress'"):
        _ = lowrank_exp.compress
