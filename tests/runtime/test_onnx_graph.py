"""What is in an ONNX model, and which networks have none."""

import warnings

import onnx
import pytest
import torch
from torch import nn

from lowrank_exp.runtime import layer_to_onnx, to_onnx
from support.runtime_networks import Residual, with_statistics


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


def shape_of(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_a_model_holds_operations_and_weights_for_batches_of_any_size_alone(capfd):
    network = with_statistics(Residual())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = onnx.load_from_string(to_onnx(network, torch.zeros(1, 3, 8, 8)))
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    (given,), (output,) = model.graph.input, model.graph.output
    assert (given.name, shape_of(given)) == ("input", ["batch", 3, 8, 8])
    assert (output.name, shape_of(output)) == ("output", ["batch", 5])
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b"test_onnx_graph" not in model.SerializeToString()
    assert {"conv1.weight", "conv2.bias", "fc.weight"} <= {tensor.name for tensor in model.graph.initializer}
    assert network.training


def test_a_fixed_batch_and_another_opset_are_as_asked_for():
    model = onnx.load_from_string(to_onnx(nn.Linear(3, 2), torch.zeros(4, 3), dynamic_batch=False, opset=18))
    assert shape_of(model.graph.input[0]) == [4, 3]
    assert [opset.version for opset in model.opset_import] == [18]
    layer = onnx.load_from_string(layer_to_onnx(nn.Linear(3, 2), torch.zeros(4, 3), opset=17))
    assert (shape_of(layer.graph.input[0]), shape_of(layer.graph.output[0])) == ([4, 3], [4, 2])
    assert [opset.version for opset in layer.opset_import] == [17]


def test_code_that_fixes_the_number_of_images_is_told_what_to_do(capfd):
    x = torch.zeros(2, 3, 4)
    for call in (lambda x: x.view(len(x), -1), lambda x: x * 2 if x.shape[0] > 3 else x):
        with pytest.raises(ValueError, match=r"works for 2 images alone .*x\.shape\[0\] rather than len"):
            to_onnx(Calls(call), x)
    fixed = onnx.load_from_string(to_onnx(Calls(lambda x: x.view(2, -1)), x, dynamic_batch=False))
    assert shape_of(fixed.graph.output[0]) == [2, 12]
    assert to_onnx(Calls(lambda x: x.view(x.shape[0], -1)), x)
    assert capfd.readouterr() == ("", "")


def test_what_has_no_form_in_onnx_is_refused(capfd):
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"torch\.export does not take the network: .*data-dependent"):
        to_onnx(Calls(lambda x: x * 2 if x.sum() > 0 else x), x)
    with pytest.raises(ValueError, match="the network gives 2 tensors, but a model here gives one"):
        to_onnx(Calls(lambda x: (x + 1, 2 * x)), x)
    with pytest.raises(ValueError, match="nothing is computed on the meta device"):
        to_onnx(nn.Linear(3, 2, device="meta"), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="example must be a tensor with at least one image"):
        to_onnx(nn.Linear(3, 2), torch.zeros(0, 3))
    assert capfd.readouterr() == ("", "")


def test_a_layer_that_the_older_exporter_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"the module has no form in ONNX \(opset 20\): .*linalg_svdvals"):
        layer_to_onnx(Calls(lambda x: torch.linalg.svdvals(x)), torch.zeros(2, 3, 4))
