"""Convolutions as frozen graphs call them."""

import pytest
import torch
from torch import nn

from lowrank_exp.runtime import runtime_named
from lowrank_exp.runtime.packed import PreparedPacked, chain_of


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 9, 9)),
        (nn.Sequential(nn.Conv2d(8, 5, (3, 1), bias=False), nn.Conv2d(5, 8, (1, 3), dilation=2)), (1, 8, 9, 9)),
        (nn.Sequential(nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.Conv2d(6, 4, 1)), (1, 8, 7, 7)),
        (nn.Conv3d(2, 3, 3, padding=1), (1, 2, 5, 5, 5)),
        (nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 5)), (3, 6)),
    ],
)
def test_outputs_are_those_of_torch(layer, shape):
    x = torch.randn(shape)
    prepared = runtime_named("compile", threads=1).prepare_for_timing(layer, x)
    assert isinstance(prepared, PreparedPacked)
    assert prepared.conditions["batch_size"] == shape[0]
    torch.testing.assert_close(prepared(x), layer(x).detach(), rtol=1e-5, atol=1e-5)
    prepared.run()


def test_what_else_there_is_in_a_layer_is_compiled():
    assert chain_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())) is None
    assert chain_of(nn.Conv1d(3, 4, 1)) is None
    assert chain_of(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")) is None
    assert chain_of(nn.Conv2d(3, 4, 3, padding="same")) is None
    assert chain_of(nn.Sequential()) is None
