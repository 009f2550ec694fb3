"""The parametrization of a weight by centroids and packed indices."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from lowrank_exp.decomposition.codebook import (
    Codebook,
    as_stored,
    index_bits,
    pack,
    round_codebooks_,
    stored_state,
    unpack,
)
from lowrank_exp.export import export, open_exported
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.surgery import factorize_

D, K = 9, 5


def layer_of(indices_N, centroids_KD, **options):
    """A 3 x 3 convolution of 2 to 6 channels, and so of 12 blocks."""
    layer = nn.Conv2d(2, 6, 3, dtype=torch.float64)
    register_parametrization(layer, "weight", Codebook(layer.weight.shape, D, K, **options))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(centroids_KD)
    layer.parametrizations.weight[0].assign_(indices_N)
    return layer


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, K, 12)), torch.from_numpy(rng.standard_normal((K, D)))


def assert_weight(layer, indices_N, centroids_KD):
    wanted = centroids_KD.numpy()[indices_N.numpy()].reshape(6, 2, 3, 3)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), wanted)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 25), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_packed_indices_are_those_of_numpy(bits, count, seed):
    indices_N = np.random.default_rng(seed).integers(0, 2**bits, count)
    bits_NB = (indices_N[:, None] >> np.arange(bits)) & 1
    packed = pack(torch.from_numpy(indices_N), bits)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == np.packbits(bits_NB.astype(np.uint8).ravel(), bitorder="little").tolist()
    assert len(packed) == int(np.ceil(count * bits / 8))
    assert unpack(packed, bits, count).tolist() == indices_N.tolist()


def test_bits_of_an_index_are_those_of_the_logarithm():
    assert [index_bits(k) for k in range(1, 3000)] == [int(np.ceil(np.log2(k))) for k in range(1, 3000)]


def test_weight_is_looked_up():
    indices_N, centroids_KD = numbers()
    layer = layer_of(indices_N, centroids_KD)
    assert_weight(layer, indices_N, centroids_KD)
    assert {name: (tuple(t.shape), t.dtype) for name, t in layer.state_dict().items()} == {
        "bias": ((6,), torch.float64),
        "parametrizations.weight.original": ((K, D), torch.float64),
        "parametrizations.weight.0.indices": ((5,), torch.uint8),  # 12 blocks of 3 bits
    }
    assert [name for name, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]


@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_gradient_of_a_centroid_is_that_of_its_blocks_together(gradient):
    indices_N, centroids_KD = numbers()
    layer = layer_of(indices_N, centroids_KD, gradient=gradient)
    gradient_ND = torch.from_numpy(np.random.default_rng(1).standard_normal((12, D)))
    layer.weight.backward(gradient_ND.reshape(6, 2, 3, 3))
    wanted_KD = np.zeros((K, D))
    np.add.at(wanted_KD, indices_N.numpy(), gradient_ND.numpy())
    if gradient == "mean":
        wanted_KD /= np.bincount(indices_N, minlength=K).clip(min=1)[:, None]
    got_KD = layer.parametrizations.weight.original.grad.numpy()
    np.testing.assert_allclose(got_KD, wanted_KD, rtol=1e-12, atol=1e-14)


def test_weight_that_is_set_gives_the_means_of_its_blocks():
    indices_N, centroids_KD = numbers()
    layer = layer_of(indices_N, centroids_KD)
    weight = torch.from_numpy(np.random.default_rng(2).standard_normal((6, 2, 3, 3)))
    layer.weight = weight
    blocks_ND = weight.reshape(12, D).numpy()
    wanted_ND = np.stack([blocks_ND[indices_N.numpy() == k].mean(axis=0) for k in indices_N.tolist()])
    np.testing.assert_allclose(layer.weight.detach().reshape(12, D).numpy(), wanted_ND, rtol=1e-12, atol=1e-14)


def test_state_goes_through_a_file_of_plain_tensors():
    (indices_N, centroids_KD), other = numbers(), layer_of(*numbers(3))
    other(torch.zeros(1, 2, 4, 4, dtype=torch.float64))  # its indices have been unpacked
    file = io.BytesIO()
    torch.save(layer_of(indices_N, centroids_KD).state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_weight(other, indices_N, centroids_KD)


def test_state_can_be_assigned():
    indices_N, centroids_KD = numbers()
    other = layer_of(*numbers(3))
    assert other.weight.shape == (6, 2, 3, 3)
    other.load_state_dict(layer_of(indices_N, centroids_KD).state_dict(), assign=True)
    assert_weight(other, indices_N, centroids_KD)


def test_indices_given_from_outside_are_used():
    (indices_N, centroids_KD), layer = numbers(), layer_of(*numbers(3))
    x = torch.ones(1, 2, 4, 4, dtype=torch.float64)
    wanted_layer = layer_of(indices_N, centroids_KD)
    wanted, own = wanted_layer(x), layer(x)
    torch.testing.assert_close(torch.func.functional_call(layer, wanted_layer.state_dict(), x), wanted, rtol=0, atol=0)
    torch.testing.assert_close(layer(x), own, rtol=0, atol=0)


def test_copy_is_a_layer_of_its_own():
    indices_N, centroids_KD = numbers()
    layer = layer_of(indices_N, centroids_KD)
    assert_weight(layer, indices_N, centroids_KD)
    copied, (others_N, _) = copy.deepcopy(layer), numbers(3)
    copied.parametrizations.weight[0].assign_(others_N)
    assert_weight(copied, others_N, centroids_KD)
    assert_weight(layer, indices_N, centroids_KD)


def test_meta_device_has_shapes_and_no_numbers():
    layer = layer_of(*numbers())
    assert layer.weight.device.type == "cpu"
    moved = copy.deepcopy(layer).to("meta")
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}
    for meta in (moved, meta_copy(nn.Sequential(layer))[0]):
        assert (meta.weight.device.type, meta.weight.shape) == ("meta", (6, 2, 3, 3))
        assert meta(torch.empty(1, 2, 5, 4, device="meta", dtype=torch.float64)).shape == (1, 6, 3, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_type_can_be_changed(dtype):
    indices_N, centroids_KD = numbers()
    layer = layer_of(indices_N, centroids_KD).to(dtype)
    assert layer.weight.dtype == dtype
    assert layer.parametrizations.weight[0].indices.dtype == torch.uint8
    torch.testing.assert_close(layer.weight.reshape(12, D), centroids_KD.to(dtype)[indices_N], rtol=0, atol=0)


def test_parametrization_can_be_removed_for_the_plain_layer():
    indices_N, centroids_KD = numbers()
    layer = remove_parametrizations(layer_of(indices_N, centroids_KD), "weight")
    assert type(layer) is nn.Conv2d
    assert_weight(layer, indices_N, centroids_KD)
    assert list(layer.state_dict()) == ["bias", "weight"]


def test_exported_graph_has_the_packed_indices():
    layer = layer_of(*numbers()).eval()
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((1, 2, 5, 5)))
    wanted = layer(x)  # indices are unpacked before the export
    exported = torch.export.export(layer, (x,))
    torch.testing.assert_close(exported.module()(x), wanted, rtol=1e-12, atol=1e-12)
    tensors = [*exported.state_dict.values(), *exported.constants.values()]
    assert sorted((str(t.dtype), t.numel()) for t in tensors if not t.is_floating_point()) == [("torch.uint8", 5)]


def test_layer_compiles_to_one_graph():
    layer = layer_of(*numbers())
    x = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    got = torch.compile(layer, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(got, layer(x), rtol=1e-12, atol=1e-12)


def test_file_has_the_stored_type():
    (indices_N, centroids_KD), other = numbers(), layer_of(*numbers(3))
    net = nn.Sequential(layer_of(indices_N, centroids_KD))
    state = stored_state(net)
    halves_KD = centroids_KD.numpy().astype(np.float16)
    np.testing.assert_array_equal(state["0.parametrizations.weight.original"].numpy(), halves_KD)
    assert state["0.bias"].dtype == torch.float64
    nn.Sequential(other).load_state_dict(state)
    assert_weight(other, indices_N, torch.from_numpy(halves_KD.astype(np.float64)))

    assert_weight(net[0], indices_N, centroids_KD)  # as it was
    assert round_codebooks_(net) is net
    assert_weight(net[0], indices_N, torch.from_numpy(halves_KD.astype(np.float64)))


def test_bare_layer_has_a_stored_state_too():
    layer = layer_of(*numbers(), stored=torch.float32)
    assert stored_state(layer)["parametrizations.weight.original"].dtype == torch.float32


def test_centroids_beyond_the_stored_type_are_refused():
    with pytest.raises(
        ValueError, match=r"centroids reach 7e\+04, but float16 ends at 6\.55e\+04: store them as float32"
    ):
        as_stored(torch.tensor([[7e4]]), torch.float16)
    assert as_stored(torch.tensor([[65504.0]]), torch.float16).item() == 65504.0


@pytest.fixture
def quantized():
    """A small network by product quantization, images, and its outputs; its indices are unpacked already."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 8)).eval()
    factorize_(net, {"0": 16, "3": 5}, "product_quantization")
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        return net, x, net(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_it_becomes_a_script_of_packed_indices(quantized):
    net, x, wanted = quantized
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    script = torch.jit.load(file)
    torch.testing.assert_close(script(x), wanted, rtol=1e-6, atol=1e-6)
    assert [b.dtype for b in script.buffers()] == [torch.uint8, torch.uint8]
    with torch.no_grad():
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(net)(x), wanted, rtol=0, atol=0)


def test_an_onnx_file_has_the_packed_indices_and_its_runtime_the_weight(tmp_path):
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    net = factorize_(nn.Sequential(nn.Linear(512, 256)).eval(), {"0": 16}, "product_quantization")
    x, path = torch.randn(2, 512), tmp_path / "net.onnx"
    assert export(net, path, x).bytes < 512 * 256
    torch.testing.assert_close(open_exported(path)(x), net(x).detach(), rtol=1e-5, atol=1e-5)
    stored = [one.dims for one in onnx.load(path).graph.initializer if one.data_type == onnx.TensorProto.UINT8]
    assert [list(dims) for dims in stored] == [[len(buffer)] for buffer in net.buffers()]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    onnxruntime.InferenceSession(path, options)
    assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["Gemm"]
