"""What torch and torch-pruning keep to themselves is where it was, and says what it said: one test for each name."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lowrank_exp.network import private


def named(module):
    """The parameters, buffers and modules that a module registers, one of each being None."""
    module.register_parameter("none", None)
    module.register_buffer("nothing", None)
    module.register_module("nobody", None)
    return module


def test_what_a_module_has_registered():
    norm = named(nn.BatchNorm1d(2))
    assert list(private.own_parameters(norm)) == ["weight", "bias", "none"]
    assert private.own_parameters(norm)["weight"] is norm.weight
    assert private.own_parameters(norm)["none"] is None
    assert list(private.own_buffers(norm)) == ["running_mean", "running_var", "num_batches_tracked", "nothing"]
    assert private.own_buffers(norm)["running_mean"] is norm.running_mean
    pair = named(nn.Sequential(norm, norm))
    assert private.own_modules(pair) == {"0": norm, "1": norm, "nobody": None}
    private.own_modules(pair)["0"] = nn.ReLU()
    assert isinstance(pair[0], nn.ReLU)


def test_names_of_a_module():
    norm = nn.BatchNorm1d(2)
    norm.mine = 3
    names = private.own_names(norm)
    assert (names["mine"], names["weight"], names["running_var"]) == (3, norm.weight, norm.running_var)
    assert not {"_parameters", "_buffers", "_modules"} & names.keys()
    assert private.own_names(nn.Sequential(norm))["0"] is norm


def test_contents_are_all_that_a_module_has():
    norm = nn.BatchNorm1d(2)
    attributes, parameters, buffers, modules = private.contents(norm)
    assert (attributes["eps"], parameters["bias"], modules) == (norm.eps, norm.bias, {})
    buffers["running_mean"] = torch.ones(2)
    attributes["eps"] = 0.5
    assert (norm.running_mean.tolist(), norm.eps) == ([1.0, 1.0], 0.5)


def test_a_module_rebuilt_of_other_parts():
    layer = nn.Linear(2, 2)
    layer.mine = [1]
    new = private.rebuild(layer, {"weight": nn.Parameter(torch.eye(2)), "bias": None}, {"b": torch.ones(1)}, {})
    assert type(new) is nn.Linear
    assert (new.mine, new.in_features, new.bias, new.b.item()) == ([1], 2, None, 1.0)
    assert torch.equal(new(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]))
    assert layer.bias is not None
    new.weight = nn.Parameter(torch.zeros(2, 2))
    assert layer.weight.abs().sum() > 0
    empty = object.__new__(nn.Linear)
    assert private.rebuild(layer, {}, {}, {}, into=empty) is empty


def test_forward_hooks_are_shared_wrapped_and_dropped():
    first, other, called = nn.Identity(), nn.Identity(), []
    handles = [
        first.register_forward_hook(lambda *_: called.append("after")),
        first.register_forward_pre_hook(lambda *_: called.append("before")),
        first.register_forward_hook(lambda module, inputs, named, y: called.append(named), with_kwargs=True),
    ]
    assert len(private.forward_hooks(first)) == 3
    private.share_forward_hooks_(other, first)
    other(torch.zeros(1))
    assert called == ["before", "after", {}]
    handles[0].remove()
    assert len(private.forward_hooks(other)) == 2

    private.wrap_forward_hooks_(other, lambda hook, what: lambda *given: called.append(what))
    called.clear()
    other(torch.zeros(1))
    assert called == ["forward pre-hook", "forward hook"]
    private.drop_forward_hooks_(other)
    assert private.forward_hooks(other) == []
    called.clear()
    first(torch.zeros(1))
    assert called == ["before", {}]


def test_forgotten_hooks_are_still_anothers():
    first = nn.Linear(1, 1)
    first.register_forward_hook(lambda *_: None)
    first.register_full_backward_hook(lambda *_: None)
    other = private.rebuild(first, private.own_parameters(first), {}, {})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(other)
    private.forget_hooks_(other)
    pickle.dumps(other)
    assert private.forward_hooks(other) == []
    assert not private.has_backward_hooks(other)
    assert private.has_backward_hooks(first)
    assert len(private.forward_hooks(first)) == 1


@pytest.mark.parametrize(
    "hang",
    [
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_backward_hooks(hang):
    layer = nn.Linear(1, 1)
    assert not private.has_backward_hooks(layer)
    hang(layer)
    assert private.has_backward_hooks(layer)
    assert not private.has_state_hooks(layer)


@pytest.mark.parametrize(
    "hang",
    [
        lambda layer: layer.register_state_dict_post_hook(lambda *_: None),
        lambda layer: layer.register_state_dict_pre_hook(lambda *_: None),
        lambda layer: layer.register_load_state_dict_pre_hook(lambda *_: None),
        lambda layer: layer.register_load_state_dict_post_hook(lambda *_: None),
    ],
)
def test_state_hooks(hang):
    layer = nn.Linear(1, 1)
    assert not private.has_state_hooks(layer)
    hang(layer)
    assert private.has_state_hooks(layer)
    assert not private.has_backward_hooks(layer)


@pytest.mark.parametrize("hang", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_a_gradient(hang):
    parameter = nn.Parameter(torch.zeros(1))
    assert not private.has_gradient_hooks(parameter)
    getattr(parameter, hang)(lambda *_: None)
    assert private.has_gradient_hooks(parameter)


def test_how_often_a_tensor_was_written():
    x = torch.zeros(2)
    before = private.times_written(x)
    x.add_(1)
    x[0].mul_(2)
    assert private.times_written(x) == before + 2
    assert x.sum().item() == 3.0


def test_tensors_that_share_memory():
    x = torch.zeros(4)
    assert private.storage_id(x[1:]) == private.storage_id(x.view(2, 2)) == private.storage_id(x)
    assert private.storage_id(x.clone()) != private.storage_id(x)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_a_convolution_with_another_weight(mode):
    layer, other = (nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode) for _ in range(2))
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(private.convolved(layer, x, other.weight, other.bias), other(x))
    assert not torch.equal(layer(x), other(x))


def test_versions_of_the_modules_of_a_state():
    norm = nn.BatchNorm1d(2)
    state = norm.state_dict()
    assert private.module_versions(state) == {"": {"version": 2}}
    assert private.module_versions({}) == {}
    plain = OrderedDict(state)
    assert private.module_versions(plain) == {}
    private.set_module_versions_(plain, {"": {"version": 7}})
    assert private.module_versions(copy.copy(plain)) == {"": {"version": 7}}


def test_what_no_grad_calls():
    from torch.overrides import TorchFunctionMode

    class Calls(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            called.append(function)
            return function(*args, **(kwargs or {}))

    called = []
    with Calls(), torch.no_grad():
        pass
    assert called == [private.SET_GRAD_ENABLED] * 2


def test_the_record_of_operations():
    x, y = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    first, second = (x * 2).split([1, 2], dim=1)
    total = torch.cat([second, y], 1).grad_fn
    assert private.output_shapes(total) == [(2, 5)]
    (split, output), (end, _) = private.operands(total)
    assert (output, private.output_shapes(split)) == (1, [(2, 1), (2, 2)])
    assert private.learned_by(end) is y
    assert private.learned_by(split) is None
    assert private.operands((torch.ones(2, 3) + x).grad_fn)[0] == (None, 0)
    assert first.grad_fn is split


def test_what_operations_were_called_with():
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    assert private.saved(torch.cat([x, x], dim=-3).grad_fn, "dim") in (1, -3)
    assert [d % 4 for d in private.saved(x.mean((-1, -2)).grad_fn, "dim")] == [3, 2]
    part = x[:, 1:-1:2].grad_fn
    while "Slice" not in part.name() or private.saved(part, "dim") != 1:
        part = private.operands(part)[0][0]
    assert [private.saved(part, what) for what in ("start", "end", "step")] == [1, -1, 2]
    turned = x.transpose(-1, 1).grad_fn
    assert {private.saved(turned, "dim0") % 4, private.saved(turned, "dim1") % 4} == {1, 3}
    assert [d % 4 for d in private.saved(x.permute(0, 2, -1, 1).grad_fn, "dims")] == [0, 2, 3, 1]
    assert private.saved(x.unsqueeze(-1).grad_fn, "dim") % 5 == 4
    assert private.saved(nn.functional.pad(x, (0, 0, 0, 0, 1, 2)).grad_fn, "pad") == (0, 0, 0, 0, 1, 2)
    assert private.saved(x.relu().grad_fn, "dim") is None


def test_the_graph_of_torch_pruning():
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    assert private.graph_nodes(graph) is None
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph.build_dependency(network, torch.zeros(2, 3, 4, 4), output_transform=lambda y: y * 1, verbose=False)
    nodes = private.graph_nodes(graph)
    assert {network[0], network[2]} <= {node.module for node in nodes}
    assert [private.is_output(node.module) for node in nodes].count(True) == 1
    assert not private.is_output(network[2])
    (last,) = (node for node in nodes if node.module is network[2])
    assert private.output_shapes(last.grad_fn) == [(2, 2, 4, 4)]
