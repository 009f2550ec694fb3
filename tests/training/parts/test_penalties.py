"""Regularizers in a fit: the step is that of the whole loss, resumed fits and histories."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.regularizers import Hoyer, Orthogonality, Regularizer, TRPProjection, Weighted, ramp
from lowrank_exp.svd_form import to_svd_
from support.fits import fit_by_options_


class StoppedError(Exception):
    pass


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    return to_svd_(nn.Sequential(*layers).double(), "channel_svd")


def images(count: int = 20) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 1, 6, 6, generator=draw, dtype=torch.float64)
    return TensorDataset(pixels, torch.randint(0, 3, (count,), generator=draw))


def penalties(weight: float = 0.5) -> Regularizer:
    half = partial(ramp, begin=0.0, end=0.5)
    return Regularizer({"orthogonality": Weighted(Orthogonality(), weight), "hoyer": Weighted(Hoyer(), 0.1, half)})


def fit(net: nn.Module, regularizer: Regularizer, batch_size: int = 20, epochs: int = 1, lr: float = 0.1, **options):
    given = {"checkpoint": None, "schedule": None, "seed": 0, "device": "cpu", "progress": False} | options
    sgd = partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=given.pop("weight_decay", 0.0))
    loader = DataLoader(images(), batch_size=batch_size)
    return fit_by_options_(net, loader, None, epochs=epochs, optimizer=sgd, regularizer=regularizer, **given)


def test_steps_are_those_of_the_whole_loss():
    """Six steps (two of them on half of the ramp) beside autograd on loss plus penalties."""
    net, other, regularizer = network(), network(), penalties()
    with torch.no_grad():
        net[0].U.mul_(1.3)  # away from orthonormal vectors, where that penalty has no gradient
        other[0].U.mul_(1.3)
    fit(net, regularizer, batch_size=10, epochs=3)
    sgd, step = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9), 0
    for _ in range(3):
        for pixels, labels in DataLoader(images(), batch_size=10):
            sgd.zero_grad()
            (cross_entropy(other(pixels), labels) + regularizer.value(other, step / 6)).backward()
            sgd.step()
            step += 1
    for name, value in other.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_gradients_are_added_once_per_group_of_batches():
    net, other = network(), network()
    fit(net, penalties(), batch_size=5, epochs=2, accumulate=4)
    fit(other, penalties(), batch_size=20, epochs=2)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_history_has_the_means_without_weights():
    net = network()
    with torch.no_grad():
        net[0].V.mul_(2.0)
    expected = Orthogonality().value(net).item(), Hoyer().value(net).item()
    (metrics,) = fit(net, penalties(), batch_size=10, lr=0.0)
    assert metrics["penalty_orthogonality"] == pytest.approx(expected[0], rel=1e-12)
    assert metrics["penalty_hoyer"] == pytest.approx(expected[1], rel=1e-12)
    assert metrics["train_loss"] < 5  # of the task alone


def test_a_fit_that_goes_on_is_one_left_alone(tmp_path):
    def stops(metrics):
        if metrics["epoch"] == 1:
            raise StoppedError

    alone, broken = network(), network()
    history = fit(alone, penalties(), batch_size=10, epochs=4)
    path = tmp_path / "last.ckpt"
    with pytest.raises(StoppedError):
        fit(broken, penalties(), batch_size=10, epochs=4, checkpoint=path, on_epoch=stops)
    with pytest.raises(ValueError, match="checkpoint of another fit: penalties"):
        fit(network(), penalties(0.4), batch_size=10, epochs=4, checkpoint=path)
    resumed = network()
    again = fit(resumed, penalties(), batch_size=10, epochs=4, checkpoint=path)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in alone.state_dict().items())
    assert [m["penalty_hoyer"] for m in again] == [m["penalty_hoyer"] for m in history]


def test_weight_decay_spares_what_is_exempt():
    net, spared = network(), network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for one, exempt in ((net, ()), (spared, ("s", "U", "V"))):
        with torch.no_grad():
            one[3].bias.fill_(1.0)
        for parameter in one.parameters():
            parameter.requires_grad_(parameter is not one[0].bias)
        fit(one, Regularizer({}), lr=1e-9, weight_decay=1e8, exempt=exempt)
    assert net[0].s.norm() < 0.95 * before["0.s"].norm()
    torch.testing.assert_close(spared[0].s, before["0.s"], rtol=0, atol=1e-6)
    assert spared[3].bias.mean().item() == pytest.approx(0.9, abs=1e-6)


def test_projection_comes_before_the_forward_pass():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3)).double()
    regularizer = Regularizer({}, TRPProjection(ChannelSVD(), energy=0.5, period=1))
    (metrics,) = fit(net, regularizer, lr=0.0)
    rank = torch.linalg.matrix_rank(net[0].weight.flatten(1)).item()
    assert metrics["projected_rank"] == rank
    assert rank < 4


def test_a_penalty_that_diverges_is_named():
    net = network()
    with torch.no_grad():
        net[0].U.fill_(1e200)
    with pytest.raises(FloatingPointError, match=r"penalty_orthogonality is (inf|nan)|loss is"):
        fit(net, penalties(), lr=0.0)
