"""The penalty of the L step against NumPy, autograd and finite differences."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.regularizers import QuadraticPenalty, Regularizer, Weighted


def convolutions():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.ConvTranspose2d(4, 2, 3), nn.Linear(5, 2)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    names = ("0", "2")
    weights = {name: network.get_submodule(name).weight for name in names}
    return network, {n: torch.randn(W.shape, generator=generator, dtype=W.dtype) for n, W in weights.items()}


def test_value_is_numpys():
    network, targets = convolutions()
    expected = sum(
        np.linalg.norm(network.get_submodule(name).weight.detach().numpy() - target.numpy()) ** 2 / 2
        for name, target in targets.items()
    )
    penalty = QuadraticPenalty(targets)
    assert penalty.value(network).item() == pytest.approx(expected, rel=1e-12)
    assert penalty.apply_(network, 0.0).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_autograds_and_that_of_finite_differences():
    network, targets = convolutions()
    penalty, mu = QuadraticPenalty(targets), 0.7
    Regularizer({"lc": Weighted(penalty, mu)}).apply_(network, 0, 10)
    closed = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert {name for name, gradient in closed.items() if gradient is not None} == {"0.weight", "2.weight"}
    for name in ("0", "2"):
        W = network.get_submodule(name).weight
        automatic = mu * torch.autograd.grad(penalty.value(network), W)[0]
        torch.testing.assert_close(closed[f"{name}.weight"], automatic, rtol=1e-12, atol=1e-12)
        place, step = 3, 1e-4
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                W.view(-1)[place] += sign * step
                values.append(penalty.value(network).item())
                W.view(-1)[place] -= sign * step
        assert closed[f"{name}.weight"].view(-1)[place].item() == pytest.approx(
            mu * (values[0] - values[1]) / (2 * step), rel=1e-6
        )


def test_gradient_descent_ends_at_the_target():
    network, targets = convolutions()
    penalty = QuadraticPenalty(targets)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    before = network[1].weight.detach().clone()
    for _ in range(40):
        optimizer.zero_grad()
        penalty.apply_(network)
        optimizer.step()
    assert penalty.value(network).item() < 1e-20
    assert torch.equal(network[1].weight, before)


def test_other_targets_have_another_name():
    _, targets = convolutions()
    same, other = ({n: one + shift for n, one in targets.items()} for shift in (0.0, 1e-12))
    assert repr(QuadraticPenalty(targets)) == repr(QuadraticPenalty(same)) != repr(QuadraticPenalty(other))


def test_refusals():
    network, targets = convolutions()
    with pytest.raises(ValueError, match="needs the target of at least one layer"):
        QuadraticPenalty({})
    with pytest.raises(ValueError, match=r"the target of 0 has the shape \(2, 5\), its weight \(4, 3, 3, 3\)"):
        QuadraticPenalty({"0": targets["2"]}).value(network)
    with pytest.raises(ValueError, match="7"):
        QuadraticPenalty({"7": targets["2"]}).value(network)
