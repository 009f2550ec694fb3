"""What runtimes say of themselves, and of a network that they have prepared."""

import importlib.metadata

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from lowrank_exp.runtime import runtime_named
from lowrank_exp.runtime.eager import Eager
from lowrank_exp.runtime.onnxruntime import OnnxRuntime

COMMON = {"threads": 1, "precision": "float32", "instruction_set": torch.backends.cpu.get_cpu_capability()}
TORCH = COMMON | {"version": torch.__version__, "winograd": "chosen by oneDNN", "provider": "cpu"}


def test_each_says_who_it_is():
    for name, expected in {
        "eager": TORCH | {"memory_format": "auto"},
        "compile": TORCH | {"memory_format": "chosen by inductor", "freezing": True},
        "onnxruntime": COMMON
        | {
            "version": importlib.metadata.version("onnxruntime"),
            "memory_format": "chosen by onnxruntime",
            "winograd": "off",
            "provider": "CPUExecutionProvider",
            "graph_optimization": "all",
            "spinning": True,
            "denormals_as_zero": False,
        },
        "openvino": COMMON
        | {
            "version": importlib.metadata.version("openvino"),
            "memory_format": "chosen by openvino",
            "winograd": "chosen by oneDNN",
            "provider": "CPU",
            "hint": "latency",
        },
    }.items():
        assert runtime_named(name, threads=1).describe() == {"name": name} | expected, name


def test_a_prepared_network_says_what_was_decided_for_it():
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)
    for channels_last, expected in ((False, "contiguous"), (True, "channels_last")):
        runtime = Eager(threads=1, channels_last=channels_last)
        decided = {"batch_size": 2, "memory_format": expected}
        assert runtime.prepare(network, x).conditions == runtime.describe() | decided
    assert runtime_named("eager").prepare(network, x).conditions["memory_format"] in ("contiguous", "channels_last")
    assert runtime_named("eager").prepare(network.double(), x).conditions["precision"] == "float64"
    network.float()
    onnx, openvino = runtime_named("onnxruntime", threads=1), runtime_named("openvino", threads=1)
    assert onnx.prepare(network, x).conditions == onnx.describe() | {"batch_size": 2}
    decided = openvino.prepare(network, x).conditions
    assert decided.pop("pinned_threads") in (True, False)
    assert decided == openvino.describe() | {"batch_size": 2}


def test_a_network_whose_code_asks_for_the_plain_format_stays_in_it():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    x = torch.randn(2, 3, 8, 8)
    assert Eager().prepare(Viewed(), x).conditions["memory_format"] == "contiguous"
    linear = Eager(channels_last=True).prepare(nn.Linear(3, 2), x[0, 0, :2, :3])
    assert linear.conditions["memory_format"] == "contiguous"
    with pytest.raises(ValueError, match="channels_last is true, but the network's code asks for the plain"):
        Eager(channels_last=True).prepare(Viewed(), x)
    with pytest.raises(ValueError, match="channels_last='yes': allowed are true, false and 'auto'"):
        Eager(channels_last="yes")


def test_kernels_are_told_in_order_with_their_operations():
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 5))
    x = torch.randn(2, 16, 8, 8)
    for name, convolution, pool in (("onnxruntime", "Conv", "MaxPool"), ("openvino", "Convolution", "MaxPool")):
        kernels = runtime_named(name, threads=1).prepare(network, x).kernel_times(3)
        ops = [kernel.op for kernel in kernels]
        assert ops.index(convolution) < ops.index(pool) < len(ops) - 1, ops
        assert ops[-1] in ("Gemm", "FullyConnected"), ops
        assert "Relu" not in ops  # it is part of the convolution
        assert all(0 < kernel.ms < 1000 for kernel in kernels), kernels
        assert all((kernel.implementation is None) == (name == "onnxruntime") for kernel in kernels), kernels
    assert runtime_named("eager").prepare(network, x).kernel_times(3) is None


def test_what_a_runtime_does_not_take_is_refused():
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"onnxruntime does not take the model of torch\.float64 .*network\.float"):
        runtime_named("onnxruntime").prepare(nn.Conv2d(3, 4, 3).double(), x)
    with pytest.raises(ValueError, match=r"has no CUDAExecutionProvider here, only .*CPUExecutionProvider"):
        OnnxRuntime(execution_provider="CUDAExecutionProvider").prepare(nn.Conv2d(3, 4, 3), x)
    with pytest.raises(ValueError, match="model must be a network"):
        runtime_named("eager").prepare(nn.Conv2d, x)
    with pytest.raises(ValueError, match="has no shape yet: run the network once before"):
        runtime_named("eager").prepare(nn.LazyConv2d(4, 3), x)


def test_models_of_several_tensors_are_refused():
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])

    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", [value("a"), value("b")], [value("c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(ValueError, match="the model has 2 inputs and 1 outputs; one of each can be timed"):
            runtime_named(name).prepare_onnx(model, torch.zeros(2, 3))
        with pytest.raises(ValueError, match=f"{name} does not take the model"):
            runtime_named(name).prepare_onnx(b"none", torch.zeros(2, 3))
