"""What a plan tells of layers that TensorLy factorizes."""

import re

import torch
from torch import nn

from lowrank_exp.decomposition import CP, recompose
from lowrank_exp.phases.reference_solver import with_reference
from lowrank_exp.rank import allocate, profile


def test_the_reason_tells_error_and_time_of_both_solvers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    kinds = {"conv": CP(solver="tensorly"), "layers": {"0": "channel_svd"}}
    layers = profile(network, torch.zeros(1, 3, 9, 9), kinds)
    plan = allocate(layers, "fixed", ranks={"0": 2, "1": 4})
    told = with_reference(plan, network)
    assert told["1"] == 4
    assert told.layers["0"] == plan.layers["0"]
    found = re.fullmatch(
        r"set by hand; tensorly: error (0\.\d{4}) in [\d.e-]+ s, ours: error (0\.\d{4}) in [\d.e-]+ s",
        told.layers["1"].reason,
    )
    weight = network[1].weight.detach()
    for error, kind in zip(found.groups(), (CP(solver="tensorly"), CP()), strict=True):
        made = recompose(kind.factorize(network[1], 4)).weight.detach()
        assert abs(float(error) - float((made - weight).norm() / weight.norm())) < 1e-4
