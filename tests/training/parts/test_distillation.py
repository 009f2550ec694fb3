"""Knowledge distillation: the loss against a formula written out, and what a fit with a teacher leaves untouched."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import Distillation, Recipe
from lowrank_exp.training.parts.distillation import Teacher
from support.fits import fit_by_options_


def softmax(z_NC):
    e_NC = np.exp(z_NC - z_NC.max(1, keepdims=True))
    return e_NC / e_NC.sum(1, keepdims=True)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def images(count=48):
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 6, generator=draw), torch.randint(0, 3, (count,), generator=draw))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_hintons(reduction):
    teacher = network().eval()
    x = torch.randn(5, 6)
    z_NC = torch.randn(5, 3)
    T, alpha = 3.0, 0.7
    loss = torch.tensor(1.25)
    ours = Teacher(Distillation(teacher=teacher, temperature=T, alpha=alpha))
    ours.reduction = reduction
    ours = ours.on_loss(loss, z_NC, x)
    v_NC = teacher(x).detach().double().numpy()
    p_NC, q_NC = softmax(v_NC / T), softmax(z_NC.double().numpy() / T)
    kl_N = (p_NC * np.log(p_NC / q_NC)).sum(1)
    expected = 0.3 * 1.25 + 0.7 * T**2 * (kl_N.mean() if reduction == "mean" else kl_N.sum())
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def fit(net, distill, checkpoint=None, stop_after=None, **options):
    def on_epoch(metrics):
        if metrics["epoch"] == stop_after:
            raise KilledError

    return fit_by_options_(
        net, DataLoader(images(), batch_size=16, shuffle=True), DataLoader(images(), batch_size=48), epochs=3,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), schedule=None, seed=3, checkpoint=checkpoint,
        device="cpu", distill=distill, on_epoch=on_epoch, progress=False, **options,
    )  # fmt: skip


class KilledError(Exception):
    pass


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_weight_zero_is_no_teacher_and_the_teacher_is_left_as_it_was():
    plain, taught, pupil = network(), network(), network()
    teacher, before = network(5), network(5)
    fit(plain, None)
    fit(taught, Distillation(teacher=teacher, alpha=0.0))
    assert same(plain, taught)
    fit(pupil, Distillation(teacher=teacher, alpha=0.9))
    assert not same(plain, pupil)
    assert same(teacher, before)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_pupil_of_the_teacher_alone_learns_its_outputs():
    """Labels are random: only the teacher can be learnt."""
    teacher, pupil = network(5).eval(), network()
    x = images().tensors[0]

    def distance(net):
        with torch.no_grad():
            return (net.eval()(x).softmax(1) - teacher(x).softmax(1)).abs().mean().item()

    before = distance(pupil)
    fit(pupil, Distillation(teacher=teacher, alpha=1.0, temperature=1.0))
    assert distance(pupil) < 0.5 * before


def test_accumulated_and_killed(tmp_path):
    distill = Distillation(teacher=network(5), alpha=0.5)
    alone, again = network(), network()
    fit(alone, distill, accumulate=2)
    with pytest.raises(KilledError):
        fit(network(), distill, tmp_path / "last.ckpt", 1, accumulate=2)
    fit(again, distill, tmp_path / "last.ckpt", accumulate=2)
    assert same(alone, again)
    with pytest.raises(ValueError, match=r"another fit: distill: teacher is \w+ there and \w+ here"):
        fit(network(), Distillation(teacher=network(6), alpha=0.5), tmp_path / "last.ckpt", accumulate=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": "train", "alpha": 1.5}, r"distill: alpha is 1.5; allowed is a fraction in \[0, 1\]"),
        ({"teacher": "train", "temperature": 0}, "distill: temperature is 0; allowed is a number above 0"),
        ({"teacher": 3}, "distill: teacher is 3; allowed are earlier phases, by name, and initial"),
        ({"alpha": 0.5}, "distill is {'alpha': 0.5}; allowed are null and a mapping of teacher"),
        ("train", "distill is 'train'; allowed are null and a mapping"),
    ],
)
def test_options_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        Recipe(epochs=1, optimizer=torch.optim.SGD, distill=given)


def test_several_devices_are_refused():
    with pytest.raises(ValueError, match="devices is 2, and a teacher is asked in one process only: set devices=1"):
        fit(network(), Distillation(teacher=network()), devices=2)
