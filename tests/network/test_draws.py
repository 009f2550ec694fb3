"""The library draws from generators of its own: those of torch, NumPy and Python stay where its user has them."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp import allocate, factorize_, load, measure, profile, save, with_accuracy, with_sensitivity
from lowrank_exp.data import FakeData
from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.network.draws import drawn_apart
from lowrank_exp.pruning import channel_groups, remove_
from lowrank_exp.pruning.criteria import BNScale, Oracle, Taylor, filter_scores
from lowrank_exp.surgery import recompose_
from lowrank_exp.svd_form import to_svd_, truncate_
from lowrank_exp.training import FirstImages
from lowrank_exp.training.probes.network_score import NetworkScore
from support.cells import cells
from support.layer_cases import RANKS


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        Dropping(),
        nn.Flatten(),
        nn.Linear(12 * 36, 4),
    ).eval()


class Dropping(nn.Module):
    """Draws in evaluation mode too."""

    def forward(self, x):
        return F.dropout(x, 0.1, training=True) * (1 + 1e-3 * np.random.rand()) + 1e-6 * random.random()


X = torch.ones(2, 3, 8, 8)
DENSE, PLAIN = network(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))


def drawing():
    """A user's loader, which draws its order from torch's global generator."""
    return DataLoader(TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 4), batch_size=4, shuffle=True)


def standing():
    """Where the global generators are, as numbers."""
    return torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]


@cells("name", RANKS)
def test_profile_allocate_and_factorize_draw_nothing(name):
    net = network()
    before = standing()
    layers = profile(net, X, {"conv": name, "linear": None})
    allocate(layers, "energy", **({"bytes": 0.7} if name == "product_quantization" else {"share": 0.5}))
    factorize_(net, {"3": RANKS[name]}, name, example_input=X)
    assert standing() == before


def loaded(folder):
    save(factorize_(network(), {"3": 2}, "cp", example_input=X), folder / "net.pt")
    return load(folder / "net.pt", model=DENSE)


def scored(criterion):
    return lambda folder, batches: filter_scores(network(), ["0", "3"], criterion, batches)


def of_ours(folder, batches):
    data = FakeData(num_classes=4, train_images=40, test_images=8, image_size=8, flip=True)
    data.setup()
    for loader in (data.train_loader(4, 0), data.val_loader(4), data.test_loader(4)):
        assert len(list(loader)) > 0


def measured(folder, batches):
    net = network()
    layers = profile(net, X, "channel_svd")
    with NetworkScore(net, layers, batches) as score:
        with_accuracy(layers, score, samples=2)
    with_sensitivity(layers, net, batches)


ACTIONS = {
    "measure": lambda folder, batches: measure(network(), X, seconds=0.001),
    "save and load": lambda folder, batches: loaded(folder),
    "recompose": lambda folder, batches: recompose_(factorize_(network(), {"3": 2}, "tucker1", example_input=X)),
    "svd form": lambda folder, batches: truncate_(to_svd_(network(), ChannelSVD(), example_input=X), {"3": 2}),
    "groups": lambda folder, batches: remove_(PLAIN, {"0": range(3)}, groups=channel_groups(PLAIN, X)),
    "taylor": scored(Taylor()),
    "batch norms": lambda folder, batches: filter_scores(network(), ["0"], BNScale(), batches),
    "oracle": scored(Oracle()),
    "first images": lambda folder, batches: list(FirstImages(batches, 6)),
    "whitened": lambda folder, batches: factorize_(
        network(), {"3": 2}, "channel_svd", reconstruct="whitened", batches=batches, example_input=X
    ),
    "scores and sensitivities": measured,
    "our loaders": of_ours,
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_whatever_is_done_draws_nothing(action, tmp_path, monkeypatch):
    batches, net = drawing(), network()
    torch.manual_seed(1)
    monkeypatch.setattr(sys.modules[__name__], "network", lambda: net)
    before = standing()
    action(tmp_path, batches)
    assert standing() == before


def test_a_loader_draws_the_same_order_whoever_draws_beside_it():
    loader = DataLoader(range(6), shuffle=True)
    torch.manual_seed(5)
    wanted = [int(one) for one in loader]
    got = []
    for one in drawn_apart(loader, 5):
        got.append(int(one))
        torch.rand(3)
    assert got == wanted
    torch.manual_seed(0)
    others = [float(torch.rand(())) for _ in drawn_apart(loader, 5)]
    torch.manual_seed(0)
    assert others == [float(torch.rand(())) for _ in range(6)]


IMPORTED = """
import importlib, json, logging, pkgutil, random, sys, warnings
import numpy as np, torch

def standing():
    loggers = [l for l in logging.root.manager.loggerDict.values() if isinstance(l, logging.Logger)]
    told = {l.name: [l.level, len(l.handlers), l.propagate, l.disabled] for l in [logging.root, *loggers]}
    return {
        "loggers": {name: one for name, one in told.items() if name.split(".")[0] in ("torch", "root")},
        "filters": list(map(str, warnings.filters)),
        "generators": [torch.get_rng_state().tolist(), list(map(str, np.random.get_state())), str(random.getstate())],
        "types": [str(torch.get_default_dtype()), str(torch.get_default_device()), torch.get_num_threads()],
    }

def told(before, after):
    wrong = [key for key in before if key != "loggers" and before[key] != after[key]]
    return wrong + [name for name, one in before["loggers"].items() if after["loggers"][name] != one]

wrong, before = {}, standing()
for name in sys.argv[1:]:
    importlib.import_module(name)
    for one in pkgutil.walk_packages(getattr(sys.modules[name], "__path__", []), name + "."):
        importlib.import_module(one.name)
    after = standing()
    if found := told(before, after):
        wrong[name] = found
    before = after
print(json.dumps(wrong))
"""


@pytest.mark.slow
def test_an_import_of_the_library_changes_nothing_around_it():
    library = ["decomposition", "rank", "reconstruct", "models", "network", "edits", "svd_form"]
    library += ["regularizers", "pruning", "surgery", "artifact", "network_file", "layers", "replacing", "runtime"]
    names = [f"lowrank_exp.{name}" for name in library]
    code = [sys.executable, "-c", IMPORTED, *names]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {}
