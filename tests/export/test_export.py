"""A network leaves for files of every format, which their suffixes say, and what is read back is the network."""

import copy
import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lowrank_exp
from lowrank_exp import factorize_, measure
from lowrank_exp.export import export, open_exported, read_metadata
from lowrank_exp.export.formats import FORMATS
from lowrank_exp.network.subnormals import count_subnormals
from lowrank_exp.svd_form import to_svd_
from support.cells import cells

X = torch.randn(5, 3, 9, 8, generator=torch.Generator().manual_seed(1))
every_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)


def network():
    """Factors, batch norms with statistics of their own, dropout; in training mode."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    for norm in (net[1], net[5]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return factorize_(net, {"0": 4, "4": 3}, "spatial_svd")


def outputs(net, x=X):
    with torch.no_grad():
        return copy.deepcopy(net).eval()(x)


@every_format
def test_a_file_gives_the_outputs_of_the_network(form, tmp_path):
    net, path = network(), tmp_path / f"small{form.suffix}"
    before = copy.deepcopy(net.state_dict())
    exported = export(net, path, X, metadata={"accuracy": 0.75, "classes": ["a", "b", "c", "d"], "mean": [0.5]})
    run = open_exported(path)
    for count in (1, 2, 5):  # whatever the batch
        torch.testing.assert_close(run(X[:count]), outputs(net, X[:count]), rtol=1e-5, atol=1e-6)
    assert 0 <= exported.difference < 1e-6
    assert (exported.path, exported.format, exported.images) == (path, form.name, 5)
    assert (exported.equal_predictions, exported.subnormals) == (1.0, 0)
    assert {file.suffix for file in tmp_path.iterdir()} == {form.suffix, *form.beside}
    assert exported.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert exported.opset == (20 if form.name == "onnx" else None)
    said = {
        "accuracy": 0.75,
        "classes": ["a", "b", "c", "d"],
        "mean": [0.5],
        "edits": 2,
        "lowrank_exp": version("lowrank_exp"),
    }
    cost = measure(net, X, seconds=0)
    said |= {"macs": cost.macs, "weights": cost.weights, "parameters": cost.parameters}
    assert exported.metadata == read_metadata(path) == said
    assert all(module.training for module in net.modules())  # and the network is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_graph_is_that_of_inference(tmp_path):
    """What is folded, dropped or not used has left nothing, nor has the code that the graph was made from."""
    export(network(), tmp_path / "small.onnx", X, format="onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    assert [node.op_type for node in graph.node] == [
        *("Conv", "Conv", "Relu", "Conv", "Conv"),
        *("ReduceMean", "Reshape", "Gemm"),
    ]
    read = {name for node in graph.node for name in node.input}
    assert {one.name for one in graph.initializer} <= read
    first = graph.input[0].type.tensor_type.shape.dim
    assert (first[0].dim_param, [dim.dim_value for dim in first[1:]]) == ("batch", [3, 9, 8])
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    content = (tmp_path / "small.onnx").read_bytes()
    assert b".py" not in content
    assert b"Sequential" not in content


def test_plain_onnx_runtime_needs_nothing_of_this_package(tmp_path):
    net, path = network(), tmp_path / "small.onnx"
    export(net, path, X)
    np.save(tmp_path / "x.npy", X.numpy())
    code = f"""
import sys, json, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r})
(got,) = session.run(None, {{session.get_inputs()[0].name: numpy.load({str(tmp_path / "x.npy")!r})}})
print(json.dumps([got.tolist(), session.get_modelmeta().custom_metadata_map["edits"], "torch" in sys.modules,
    any(name.startswith("lowrank_exp") for name in sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    got, edits, torch_there, ours_there = json.loads(done.stdout)
    wanted = outputs(net)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert np.argmax(got, 1).tolist() == wanted.argmax(1).tolist()
    assert (edits, torch_there, ours_there) == ("2", False, False)


class OtherInFiles(nn.Module):
    """Gives other numbers to an exporter than to others."""

    def __init__(self, by):
        super().__init__()
        self.layer, self.by = nn.Linear(8, 3), by

    def forward(self, x):
        x = self.layer(x.mean((1, 2)))
        return x + self.by * x.abs().max() if torch.compiler.is_exporting() else x


def test_a_file_that_gives_other_outputs_is_not_left_there(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match=r"was not written: read back, the outputs of 5 images differ by 0\.00"):
        export(OtherInFiles(1e-3), path, X)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"what was there before")]
    assert 1e-6 < export(OtherInFiles(1e-5), path, X).difference < 5e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_images_to_compare_on(tmp_path):
    net, path = network(), tmp_path / "small.ts"
    more = torch.cat([X] * 20)
    batches = [(more[:60], torch.zeros(60)), (more[60:], torch.zeros(40))]
    assert [export(net, path, X, images=images).images for images in (None, more, batches)] == [5, 100, 100]
    for images in ([], X[:0]):
        with pytest.raises(ValueError, match="images holds no image"):
            export(net, path, X, images=images)


def test_subnormal_weights_are_zeros_in_the_file(tmp_path):
    net, path = network(), tmp_path / "small.onnx"
    net[8].weight.data[0, :3] = 1e-39
    exported = export(net, path, X)
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    weights = [weight for weight in weights if weight.dtype == np.float32]
    assert exported.subnormals == 3
    assert sum(int((weight == 0).sum()) for weight in weights) == 3
    assert not any(((weight != 0) & (np.abs(weight) < 1.1754e-38)).any() for weight in weights)
    assert count_subnormals(net) == 3  # still: the network is not changed


class Two(nn.Module):
    def forward(self, x):
        return x, x


class Fixed(nn.Module):
    """The length is a number of Python, the same in every call of what was made of this code."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(216, 3)

    def forward(self, x):
        return self.layer(x.reshape(len(x), 216))


def in_svd_form():
    return to_svd_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))


def diverged():
    net = network().eval()
    net[8].bias.data[0] = torch.nan
    return net


REFUSED = {
    "suffix of none": (network, "small.pb", {}, r"suffix '\.pb', which says no format: onnx \(\.onnx\), pt2"),
    "suffix of another": (
        network,
        "small.onnx",
        {"format": "pt2"},
        r"files of format='pt2' have '\.pt2': call it .*small\.pt2",
    ),
    "unknown format": (network, "small.onnx", {"format": "caffe"}, r"format='caffe' is not known: onnx \(\.onnx\)"),
    "SVD form": (in_svd_form, "small.onnx", {}, r"^0 in SVD form, .*truncate_\(model, energy=0\.01\)"),
    "not a network": (lambda: nn.Linear, "small.onnx", {}, "model must be a network"),
    "without numbers": (lambda: network().to("meta"), "small.onnx", {}, r"meta device \(0\.0\.weight\): it has no"),
    "other type": (lambda: network().double(), "small.onnx", {}, r"is torch\.float64, and files hold float32"),
    "two outputs": (Two, "small.onnx", {}, "the network gives 2 tensors"),
    "fixed batch": (Fixed, "small.onnx", {}, "cannot be exported as onnx: the network's code works for 2 images alone"),
    "fixed batch in a trace": (Fixed, "small.ts", {}, "the file does not take a batch of 3 images"),
    "two outputs in a trace": (Two, "small.ts", {}, "gives a tuple, and what is exported must give one tensor"),
    "other images": (network, "small.ts", {"images": X[:, :, :5]}, r"images are of \(3, 5, 8\), and example_input"),
    "not finite": (diverged, "small.onnx", {}, "outputs that are NaN or infinite"),
    "no such value": (network, "small.onnx", {"metadata": {"mean": torch.ones(3)}}, "metadata takes names, numbers"),
    "found out": (network, "small.onnx", {"metadata": {"macs": 3}}, "metadata has macs, which export finds out"),
    "too large": (lambda: large(), "small.onnx", {}, r"has 2,147,48\d,\d+ bytes of weights and one ONNX file holds"),
}


def large():
    """More than two gigabytes, without taking the memory."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(216, 3))
    net[1].register_buffer("rest", torch.zeros(1).expand(2**29 - 500))
    return net


@cells(("make", "name", "options", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(make, name, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        export(make(), tmp_path / name, X, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "small.xml").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for use in (lambda path: export(network(), path, X), read_metadata):
        with pytest.raises(ValueError, match=r"need the package openvino: pip install 'lowrank_exp\[openvino\]'"):
            use(tmp_path / "small.xml")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder of .*: make .*deep first"):
        export(network(), tmp_path / "deep" / "small.onnx", X)
    for read in (open_exported, read_metadata):
        with pytest.raises(FileNotFoundError, match=r"the exported file .* does not exist"):
            read(tmp_path / "small.onnx")
        for form in FORMATS:
            path = tmp_path / f"other{form.suffix}"
            path.write_bytes(b"something else")
            with pytest.raises(ValueError, match=f"cannot be read as a file of format {form.name}"):
                read(path)


def test_the_name_is_function_and_module_whichever_comes_first():
    code = "import lowrank_exp; print(callable(lowrank_exp.export), lowrank_exp.export.read_metadata.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "read_metadata"]
    assert callable(lowrank_exp.export)  # here the module came first
