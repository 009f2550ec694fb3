"""The linear probe against scikit-learn's own on the pixels, its stored features, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from lowrank_exp.data import Digits
from lowrank_exp.phases import LinearProbe


class Scaled(nn.Module):
    """Features are twice the pixels; the head is never looked at."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Conv2d(1, 1, 1, bias=False)
        self.head = nn.Linear(64, 10)
        nn.init.constant_(self.visual.weight, 2.0)

    def forward(self, x):
        return self.head(self.visual(x).flatten(1))


@pytest.fixture
def digits():
    data = Digits(num_classes=10, crop_padding=0, image_size=8)
    data.setup()
    return data


def setting(data, folder):
    return SimpleNamespace(data=data, folder=folder, device="cpu")


def pixels(loader):
    images, labels = zip(*loader, strict=True)
    return 2 * torch.cat(images).flatten(1).numpy(), torch.cat(labels).numpy()


def test_it_is_logistic_regression_on_the_features(digits, tmp_path):
    network = Scaled().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe = LinearProbe(features="visual", C=[1e-4, 0.316], batch_size=100)
    done = probe.run_(network, setting(digits, tmp_path))
    train, val, test = (
        pixels(loader)
        for loader in (digits.train_loader(100, 0, augment=False), digits.val_loader(100), digits.test_loader(100))
    )
    fits = [LogisticRegression(C=C, max_iter=1000).fit(*train) for C in (1e-4, 0.316)]
    on_val = [fit.score(*val) for fit in fits]
    assert on_val[0] < on_val[1]
    assert done.values == pytest.approx(
        {"linear_probe": fits[1].score(*test), "linear_probe_val": on_val[1], "linear_probe_C": 0.316}, abs=0.004
    )
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with np.load(tmp_path / "features_test.npz") as stored:
        np.testing.assert_allclose(stored["features"], test[0], rtol=0, atol=1e-6)
        assert stored["labels"].tolist() == test[1].tolist()


def test_stored_features_are_taken_and_few_iterations_are_told(digits, tmp_path, monkeypatch):
    probe = LinearProbe(features="visual", images=100, iterations=2)
    first = probe.run_(Scaled(), setting(digits, tmp_path))
    assert first.warnings == ["the linear probe had not converged after iterations=2"]
    with np.load(tmp_path / "features_train.npz") as stored:
        assert stored["features"].shape == (100, 64)
    monkeypatch.setattr(LinearProbe, "measure", None)  # a second pass over the images would fail
    assert probe.run_(Scaled(), setting(digits, tmp_path)).values == first.values


def test_what_it_refuses(digits, tmp_path):
    for name in ("head.weight", "", "trunk"):
        with pytest.raises(ValueError, match=r"is not a submodule of this network; at the top are visual, head"):
            LinearProbe(features=name).walk_(Scaled(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="there is no inverse strength"):
        LinearProbe(features="visual", C=[])
    for options in ({"C": [0.0]}, {"images": 0}, {"iterations": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LinearProbe(features="visual", **options)
    none = SimpleNamespace(sizes={"train": 5, "val": 0, "test": 5})
    with pytest.raises(ValueError, match="C has 2 values and there are no validation images"):
        LinearProbe(features="visual", C=[1, 2])._has(setting(none, tmp_path), "val")
    twice = nn.Sequential(layer := nn.Flatten(0), layer, nn.Unflatten(0, (-1, 64)))
    twice.visual = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="did not give one row of features per image"):
        LinearProbe(features="0").measure(twice, [(torch.zeros(2, 1, 8, 8), torch.zeros(2))])
