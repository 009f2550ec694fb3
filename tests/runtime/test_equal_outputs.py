"""Every runtime computes what torch computes, and leaves the network that it is given as it was."""

import copy

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_
from lowrank_exp.runtime import installed_runtimes, layer_to_onnx, runtime_named
from support.layer_cases import LAYERS
from support.runtime_networks import networks, outputs, with_statistics


def assert_close(got, wanted, name=""):
    torch.testing.assert_close(
        got, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item(), msg=lambda said: f"{name}: {said}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", installed_runtimes())
def test_outputs_are_those_of_torch(runtime):
    torch.manual_seed(0)
    cases = networks()
    for name in ["residual"] if runtime == "compile" else cases:  # one that takes seconds to compile says it all
        network, shape = cases[name]
        with_statistics(network).train()
        before, x = copy.deepcopy(network), torch.randn(shape)
        wanted = outputs(copy.deepcopy(network).eval(), x)
        prepared = runtime_named(runtime, threads=1).prepare(network, x)
        assert_close(prepared(x), wanted, name)
        prepared.run()
        more = torch.cat([-x, x, x[:1]])
        if runtime in ("eager", "onnxruntime"):  # they take any number of images
            for images in (more, x[:1]):
                assert_close(prepared(images), outputs(copy.deepcopy(network).eval(), images), name)
        else:
            assert_close(prepared(-x), outputs(copy.deepcopy(network).eval(), -x), name)
            with pytest.raises(
                ValueError, match=r"for inputs of \(2, .*, got \(5, .*: prepare it with an example of that"
            ):
                prepared(more)
        assert prepared.conditions["batch_size"] == 2, name
        assert [m.training for m in network.modules()] == [True for _ in before.modules()], name
        assert list(network.state_dict()) == list(before.state_dict()), name
        for key, tensor in before.state_dict().items():
            assert torch.equal(network.state_dict()[key], tensor), (name, key)


def test_a_layer_alone_of_every_setting_is_exported_fast():
    torch.manual_seed(0)
    runtime = runtime_named("onnxruntime", threads=1)
    for name, (layer, shape) in LAYERS.items():
        x = torch.randn(shape)
        assert_close(runtime.prepare_onnx(layer_to_onnx(layer, x), x)(x), outputs(layer, x), name)
        assert layer.training, name


def test_codebooks_are_computed_from_their_indices():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(256, 8)).eval()
    factorize_(with_statistics(network), {"0": 16, "3": 5}, "product_quantization")
    x = torch.randn(3, 8, 6, 6)
    for name in ("eager", "onnxruntime"):
        assert_close(runtime_named(name).prepare(network, x[:1])(x), outputs(network, x), name)
