import pytest
import torch

from lowrank_exp.training import resolve_device


def test_cpu():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"'cuda:2', but this machine has 2 CUDA GPU"):
        resolve_device("cuda:2")


def test_what_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda:1', but torch finds no CUDA GPU"):
        resolve_device("cuda:1")
    with pytest.raises(ValueError, match="'mps', but torch finds no Apple GPU"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "tpu:0"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="allowed are 'auto', 'cpu', 'cuda'"):
        resolve_device(name)
