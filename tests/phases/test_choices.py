"""What is said of layers for which there is no fit."""

import torch
from torch import nn

from lowrank_exp.phases.choices import with_unfitted
from lowrank_exp.phases.phase import Done
from lowrank_exp.rank import allocate, profile


def test_layers_that_are_fitted_to_their_weights_are_counted():
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 6))
    kinds = {"conv": "product_quantization", "linear": "linear_svd"}
    plan = allocate(profile(network, torch.zeros(1, 2, 6, 6), kinds), "fixed", ranks={"0": 2, "2": 3})
    done = Done(values={"measured_ms": 2.0})
    assert with_unfitted(done, plan, network, None) is done
    assert with_unfitted(done, plan, network, "whitened").values == {
        "measured_ms": 2.0,
        "layers_fitted_to_their_weights": 1.0,
    }
    plan = allocate(profile(network, torch.zeros(1, 2, 6, 6)), "fixed", ranks={"0": 2, "2": 3})
    assert with_unfitted(done, plan, network, "whitened") is done
    assert with_unfitted(done, plan, network, "relu").values["layers_fitted_to_their_weights"] == 1.0  # spatial SVD
