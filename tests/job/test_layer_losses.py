"""What layers lost by their decomposition, beside the same by hand."""

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_
from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.job.layer_losses import layer_losses
from lowrank_exp.rank import Plan
from lowrank_exp.rank.plan import PlannedLayer
from lowrank_exp.svd_form.layers import SVDForm


def networks():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)).eval()
    small = nn.Sequential(*dense)
    small.load_state_dict(dense.state_dict())
    layers = {"2": PlannedLayer(3, "channel_svd", "by hand"), "4": PlannedLayer(2, "linear_svd", "by hand")}
    return dense, factorize_(small, Plan(layers))


def test_errors_of_weight_and_responses():
    dense, small = networks()
    images = torch.randn(6, 3, 6, 6)
    losses = layer_losses(dense, small, ["2", "4"], images.split(4))
    inputs = {"2": dense[:2](images), "4": dense[:4](images)}
    for name, x in inputs.items():
        layer, chain = dense.get_submodule(name), small.get_submodule(name)
        first, last = (factor.weight.flatten(1) for factor in chain)
        product = last @ first
        weight = layer.weight.flatten(1)
        assert losses[name]["weight_error"] == pytest.approx(((weight - product).norm() / weight.norm()).item() ** 2)
        y, approximated = layer(x), chain(x)
        expected = ((y - approximated).norm() / y.norm()).item() ** 2
        assert losses[name] == {"weight_error": losses[name]["weight_error"], "response_error": pytest.approx(expected)}
        assert 0.01 < expected < 1
    assert not any(module._forward_hooks for module in dense.modules())


def test_without_images_and_with_the_accuracy_of_single_layers():
    dense, small = networks()
    before = [dense[2], dense[4]]

    def accuracy(network):
        return sum(isinstance(network.get_submodule(name), nn.Sequential) for name in "24") / 10 + isinstance(
            network[4], nn.Sequential
        )

    losses = layer_losses(dense, small, ["2", "4"], [], accuracy)
    assert [losses[name]["accuracy_alone"] for name in "24"] == [0.1, 1.1]
    assert "response_error" not in losses["2"]
    assert [dense[2], dense[4]] == before


def test_of_a_layer_in_svd_form_and_of_one_whose_weight_is_not_known():
    dense, small = networks()
    weight = dense[2].weight.clone()
    dense[2] = SVDForm.from_dense(dense[2], ChannelSVD())
    small[4] = nn.Sequential(nn.ReLU(), nn.Linear(32, 4))
    losses = layer_losses(dense, small, ["2", "4"], [torch.randn(2, 3, 6, 6)])
    product = (small[2][1].weight.flatten(1) @ small[2][0].weight.flatten(1)).view_as(weight)
    assert losses["2"]["weight_error"] == pytest.approx(
        ((weight - product).norm() / weight.norm()).item() ** 2, rel=1e-4
    )
    assert "weight_error" not in losses["4"]
    assert losses["4"]["response_error"] > 0


def test_a_plan_keeps_what_its_layers_lost(tmp_path):
    plan = Plan({"a": PlannedLayer(3, "channel_svd", "x"), "b": PlannedLayer(None, None, "y")})
    told = plan.with_losses({"a": {"weight_error": 0.25, "response_error": 0.5}, "gone": {"weight_error": 1.0}})
    told.write(tmp_path / "plan.yaml")
    read = Plan.read(tmp_path / "plan.yaml")
    assert read.layers == told.layers
    assert (read.layers["a"].weight_error, read.layers["a"].accuracy_alone) == (0.25, None)
    text = (tmp_path / "plan.yaml").read_text()
    assert "accuracy_alone" not in text
    (tmp_path / "plan.yaml").write_text(text.replace("0.25", "much"))
    with pytest.raises(ValueError, match="the layer a: weight_error must be a number, got 'much'"):
        Plan.read(tmp_path / "plan.yaml")
