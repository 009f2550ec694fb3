"""Trainings that diverge end with what broke first, where, and what to try."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.regularizers import NuclearNorm, Regularizer, TRPProjection, Weighted
from lowrank_exp.regularizers.penalty import Penalty, gradient
from lowrank_exp.training import Distillation
from support.fits import fit_by_options_


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))


def images(count: int = 48, classes: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    return TensorDataset(torch.randn(count, 1, 6, 6, generator=generator), labels)


def fit(net: nn.Module, data: TensorDataset | None = None, lr: float = 0.1, **options: object) -> list[dict]:
    loader = DataLoader(data or images(), batch_size=16)
    options = {
        "epochs": 2,
        "schedule": None,
        "seed": 0,
        "checkpoint": None,
        "device": "cpu",
        "progress": False,
    } | options
    return fit_by_options_(net, loader, None, optimizer=partial(torch.optim.SGD, lr=lr), **options)


@dataclass(frozen=True)
class Steps(Penalty):
    """Values and slopes of single steps, 1 and 0 in all others."""

    values: tuple[tuple[int, float], ...] = ()
    slopes: tuple[tuple[int, float], ...] = ()
    layers: None = None

    def value(self, network):
        return torch.ones(())

    def apply_(self, network, weight=1.0, step=0):
        gradient(network[3].weight).add_(dict(self.slopes).get(step, 0.0))
        return torch.tensor(dict(self.values).get(step, 1.0))

    def _add_(self, network, weight):
        raise NotImplementedError


def fails(message: str, net: nn.Module, **options: object) -> str:
    with pytest.raises(FloatingPointError, match=message) as caught:
        fit(net, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_penalty_alone_is_found_with_its_step(value):
    terms = {"fine": Weighted(Steps(), 0.5), "bad": Weighted(Steps(values=((4, value),)), 0.5)}
    told = fails(
        rf"^penalty_bad is {value} at epoch 1, step 1 of 3, learning rate 0\.1\.",
        network(),
        regularizer=Regularizer(terms),
    )
    assert "Lower regularizer.terms.bad.weight" in told


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_alone_is_found_although_every_value_is_finite(value):
    """The step ruins all weights: what is not finite afterwards is not named."""
    terms = {"fine": Weighted(Steps(), 0.5), "bad": Weighted(Steps(slopes=((1, value),)), 0.5)}
    told = fails(
        r"^the gradient of penalty_bad is (nan|inf) at epoch 0, step 1 of 3", network(), regularizer=Regularizer(terms)
    )
    assert "Lower regularizer.terms.bad.weight" in told


def test_a_gradient_of_the_loss_is_not_blamed_on_penalties():
    net = network()
    net[0].weight.register_hook(lambda g: g * math.inf)
    fails(
        "^the gradient of the training loss is (nan|inf) at epoch 0, step 0 of 3",
        net,
        regularizer=Regularizer({"fine": Weighted(Steps(), 0.5)}),
    )


def test_a_steep_penalty_is_named_beside_a_loss_that_it_ruins():
    terms = {"steep": Weighted(Steps(slopes=((0, 1e15),)), 0.5)}
    told = fails(
        "^the training loss is (nan|inf) at epoch 0, step 1 of 3", network(), regularizer=Regularizer(terms), lr=1e24
    )
    assert "At step 0 penalty_steep made the gradient" in told
    assert told.endswith("lower regularizer.terms.steep.weight.")


def test_the_teachers_part_is_told_from_the_labels():
    teacher = network()
    with torch.no_grad():
        teacher[3].bias[0] = math.nan
    told = fails(
        "^the teacher's part of the training loss is nan at epoch 0, step 0 of 3",
        network(),
        distill=Distillation(teacher=teacher),
    )
    assert "teacher's weights" in told
    data = images()
    data.tensors[0][20] = math.nan
    fails(
        "^the training loss is nan at epoch 0, step 1 of 3",
        network(),
        data=data,
        distill=Distillation(teacher=network()),
    )


def test_weights_that_the_last_step_ruins_are_found_without_validation_images():
    data = images(16)
    data.tensors[0].mul_(1e3)
    net = network()
    fails(r"^an entry of \d\.\w+ is nan at epoch 0, step 0 of 1", net, data=data, lr=1e38, epochs=1)


def test_a_factorization_that_fails_on_ruined_weights_tells_what_broke_first():
    terms = {"nuclear_norm": Weighted(NuclearNorm(ChannelSVD(), period=1), 1e-3)}
    for regularizer in (Regularizer(terms), Regularizer({}, TRPProjection(ChannelSVD(), energy=0.9, period=1))):
        data = images()
        data.tensors[0][:16] = math.inf
        fails("^the training loss is nan at epoch 0, step 0 of", network(), data=data, regularizer=regularizer)


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_that_are_none_of_the_networks_classes(classes):
    net = network(classes)
    if classes == 3:
        assert len(fit(net, images(classes=3), epochs=1)) == 1
    with pytest.raises(ValueError, match=rf"labels run from 0 to 3, but the network has {classes} classes"):
        fit(net, images(classes=4), epochs=1)
