"""Jobs leave alone what cannot be replaced, whatever phase would replace it, and say why."""

import importlib
import sys

import pytest
import torch

from lowrank_exp import load, measure
from lowrank_exp.files.results import Result
from support.smoke import SMOKE

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.listed, self.looked_at = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.last, self.norm, self.out = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(32, 10)
        self.order = [self.listed]

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.order[0](x))
        x = torch.relu(self.looked_at(x))
        x = x if isinstance(self.looked_at, nn.Conv2d) else 0 * x
        return self.out(torch.relu(self.last(x)).mean((2, 3)))
"""
REASONS = {"listed": "it is also held by `order`", "looked_at": "its parent, Net, looks at its type or parameters: wi"}
METHODS = {
    "decompose": ["rank.macs=0.9", "method.order=[train,factorize]"],
    "product_quantization": [
        "decomposition=product_quantization",
        "rank=fixed",
        "rank.ranks={last: 16}",
        "method.order=[factorize]",
    ],
    "lc": ["method=lc", "rank.macs=0.9"],
    "trp": ["method=trp", "rank.macs=0.9"],
    "pufferfish": ["method=pufferfish", "rank.macs=0.9"],
    "cuttlefish": ["method=cuttlefish", "rank=fixed", "rank.ranks={last: 4}"],
    "factorized": ["method=factorized", "rank.macs=0.9"],
    "in SVD form": ["method=svd_training", "method.order=[to_svd]"],
    "svd_training": ["method=svd_training", "method.order=[to_svd,truncate]", "method.phases.to_svd.rank=0.3"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: net_with_a_list.Net\nweights: null\n")
    (tmp_path / "net_with_a_list.py").write_text(NET)
    monkeypatch.delitem(sys.modules, "net_with_a_list", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_whatever_the_method(options, folder, command):
    assert command("--config-dir", str(folder / "conf"), *SMOKE, "model=mine", *options) == 0
    (path,) = (folder / "outputs/runs").glob("*/result.json")
    result = Result.read(path)
    layers = {layer.name: layer for layer in result.layers}
    assert layers["last"].rank is not None
    for name, reason in REASONS.items():
        assert layers[name].rank is None
        assert reason in layers[name].reason
        assert layers[name].macs_after == layers[name].macs_before
    network = load(path.parent / "model.pt", model=importlib.import_module("net_with_a_list").Net())
    assert type(network.order[0]) is torch.nn.Conv2d
    assert network.order[0] is network.listed
    assert measure(network, torch.zeros(1, 1, 8, 8), seconds=0).macs == result.phases[-1].macs
