"""Which parameters weight decay spares."""

import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, LinearSVD
from lowrank_exp.regularizers import parameter_groups
from lowrank_exp.surgery import factorize_
from lowrank_exp.svd_form import SVDForm


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        SVDForm.from_dense(nn.Conv2d(3, 4, 3), ChannelSVD()),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 4, 1)),
        nn.GroupNorm(2, 4),
        SVDForm.from_dense(nn.Linear(4, 2, bias=False), LinearSVD()),
    )


def names(network, group):
    name_of = {id(parameter): name for name, parameter in network.named_parameters()}
    return [name_of[id(parameter)] for parameter in group["params"]]


def test_every_parameter_is_in_one_group(network):
    decayed, spared = parameter_groups(network, 1e-4)
    assert names(network, decayed) == ["2.0.weight", "2.1.weight"]
    assert sorted(names(network, decayed) + names(network, spared)) == sorted(n for n, _ in network.named_parameters())
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)


@pytest.mark.parametrize(
    ("exempt", "expected"),
    [
        (["s"], ["0.s", "4.s"]),
        (["U", "V"], ["0.U", "0.V", "4.U", "4.V"]),
        (["norm"], ["1.weight", "1.bias", "3.weight", "3.bias"]),
        (["bias"], ["0.bias", "2.1.bias"]),
        (["re:2[.].*", "4.s"], ["2.0.weight", "2.1.weight", "2.1.bias", "4.s"]),
    ],
)
def test_exempt_names_kinds_and_parameters(network, exempt, expected):
    _, spared = parameter_groups(network, 1e-4, exempt)
    assert names(network, spared) == expected


def test_one_group_where_the_other_is_empty(network):
    (decayed,) = parameter_groups(network, 1e-4, exempt=[])
    assert names(network, decayed) == [name for name, _ in network.named_parameters()]
    (spared,) = parameter_groups(network, 1e-4, exempt=["re:.*"])
    assert names(network, spared) == [name for name, _ in network.named_parameters()]


def test_frozen_parameters_are_left_out_and_shared_ones_are_spared_under_either_name(network):
    network[0].requires_grad_(False)
    network.append(nn.Conv2d(4, 2, 1, bias=False))
    network[5].weight = network[2][0].weight
    decayed, spared = parameter_groups(network, 1e-4, exempt=["5.weight", "U"])
    assert names(network, spared) == ["2.0.weight", "4.U"]
    assert not any(name.startswith("0.") for name in names(network, decayed))


def test_an_optimizer_decays_what_is_not_exempt_by_its_own_setting(network):
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(network), lr=0.5, weight_decay=0.1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        factor = 0.95 if name in ("2.0.weight", "2.1.weight") else 1.0
        assert torch.allclose(parameter, before[name] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; allowed is 0 or more"),
        ({"exempt": "bias"}, "exempt is 'bias'; allowed is a list"),
        (
            {"exempt": ["biases"]},
            "exempt takes s, U, V, factors, norm, bias and the names of parameters, no others: .*'biases'",
        ),
    ],
)
def test_mistakes_are_named(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(network, **arguments)


def test_factors_that_a_factorization_left(network):
    factorize_(network, {"2.0": 1}, "channel_svd")
    decayed, spared = parameter_groups(network, 1e-4, ["factors"])
    assert names(network, spared) == ["2.0.0.weight", "2.0.1.weight"]
    assert "2.1.weight" in names(network, decayed)
