"""A network is saved and loaded whatever was built around it before or after it was edited."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lowrank_exp import factorize_, load, save
from lowrank_exp.edits import Bias, Factorize, KeepChannels, edits_of
from lowrank_exp.models import cifar_resnet, lenet5
from lowrank_exp.network.wrappers import full_name, unwrap
from lowrank_exp.pruning import remove_
from lowrank_exp.surgery import recompose_
from lowrank_exp.svd_form import to_svd_, truncate_


class Wrapper(nn.Module):
    """As a LightningModule holds a network."""

    def __init__(self, network, name="model"):
        super().__init__()
        self.name = name
        self.add_module(name, network)
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        return getattr(self, self.name)(x)


def dense(seed=7):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Sequential(nn.Conv2d(6, 6, 3, bias=False), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(6 * 36, 4),
    )


def images():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def compiled(network):
    return torch.compile(network, backend="eager")


def with_compiled_part(network):
    network[2] = compiled(network[2])
    return network


def with_a_compiled_layer(network):
    network[0] = compiled(network[0])
    return network


def with_parallel_part(network):
    network[2] = nn.DataParallel(network[2])
    return network


def compressed_(model, prefix=""):
    """Pruned, decomposed at two levels, with biases from a fit, and with a rank pruned."""
    remove_(model, {f"{prefix}0": [0, 2, 3, 5]}, images())
    factorize_(model, {f"{prefix}0": 3, f"{prefix}4": 3})
    batches = [images() for _ in range(4)]
    factorize_(model, {f"{prefix}2.0": 4}, "channel_svd", reconstruct="response", batches=batches)
    factorize_(model, {f"{prefix}2.0.0": 2}, "spatial_svd")
    return model.eval()


EDITS = [
    KeepChannels("0", out=(0, 2, 3, 5)),
    KeepChannels("1", out=(0, 2, 3, 5)),
    KeepChannels("2.0", inputs=(0, 2, 3, 5)),
    Factorize("0", "spatial_svd", 3),
    Factorize("4", "linear_svd", 3),
    Bias("2.0"),
    Factorize("2.0", "channel_svd", 4),
    Factorize("2.0.0", "spatial_svd", 2),
]


def named(edits, rename):
    return [type(edit)(**{**vars(edit), "layer": rename(edit.layer)}) for edit in edits]


def comes_back(model, inner, around, path):
    """The file of `model` gives, in what `around` makes of the dense network, the same outputs as `inner`."""
    save(model, path)
    again = load(path, model=around(dense(seed=3)))
    assert torch.equal(again(images()), inner(images()))
    return again


CONTAINERS = {
    "bare": (lambda network: network, ""),
    "parallel": (nn.DataParallel, "module."),
    "lightning": (Wrapper, "model."),
    "lightning, another name": (lambda network: Wrapper(network, "network"), "network."),
    "sequential": (lambda network: nn.Sequential(network, nn.Flatten()), "0."),
    "compiled": (compiled, "_orig_mod."),
    "compiled in a wrapper": (lambda network: Wrapper(compiled(network)), "model._orig_mod."),
    "averaged": (AveragedModel, "module."),
    "parallel, averaged": (lambda network: AveragedModel(nn.DataParallel(network)), "module.module."),
}


@pytest.mark.parametrize(("around", "prefix"), CONTAINERS.values(), ids=CONTAINERS)
def test_edited_inside_a_container(around, prefix, tmp_path):
    outside = around(dense())
    inner = outside.get_submodule(prefix.removesuffix(".")) if prefix else outside
    compressed_(outside, prefix)
    assert edits_of(inner) == EDITS
    assert edits_of(outside) == named(EDITS, lambda name: prefix + name)
    comes_back(inner, inner, lambda network: network, tmp_path / "inner.pt")
    again = comes_back(outside, inner, around, tmp_path / "outside.pt")
    assert edits_of(again) == named(EDITS, lambda name: full_name(again, name)) or edits_of(again) == edits_of(outside)
    if isinstance(unwrap(outside), nn.Sequential) and not prefix.startswith("0"):
        comes_back(outside, inner, lambda network: network, tmp_path / "outside.pt")
        comes_back(inner, inner, around, tmp_path / "inner.pt")


PARTS = {
    "whole": lambda network: network,
    "compiled part": with_compiled_part,
    "parallel part": with_parallel_part,
    "compiled layer": with_a_compiled_layer,
}


@pytest.mark.parametrize("around", PARTS.values(), ids=PARTS)
def test_wrappers_around_parts_of_a_network(around, tmp_path):
    outside = around(compressed_(dense())).eval()
    for again in PARTS.values():
        comes_back(outside, outside, again, tmp_path / "small.pt")


@pytest.mark.parametrize("around", [with_compiled_part, with_parallel_part], ids=["compiled", "parallel"])
def test_edited_inside_a_wrapper_around_a_part(around, tmp_path):
    outside = around(dense()).eval()
    name = full_name(outside, "2.0")
    assert name in ("2._orig_mod.0", "2.module.0")
    factorize_(outside, {name: 2, "4": 3})
    assert edits_of(outside) == [Factorize(name, "spatial_svd", 2), Factorize("4", "linear_svd", 3)]
    for again in PARTS.values():
        comes_back(outside, outside, again, tmp_path / "small.pt")


def test_graphs_of_fx_and_their_copies(tmp_path):
    model = compressed_(dense())
    graph = torch.fx.symbolic_trace(model)
    edited = compressed_(torch.fx.symbolic_trace(dense()))
    for one in (graph, copy.deepcopy(graph), edited, copy.deepcopy(edited), torch.fx.symbolic_trace(edited)):
        assert edits_of(one) == EDITS
        comes_back(one, one, lambda network: network, tmp_path / "small.pt")
        comes_back(one, model if one is graph else one, torch.fx.symbolic_trace, tmp_path / "small.pt")


def test_a_backbone_that_two_networks_share(tmp_path):
    shared = dense()
    first, second = nn.Sequential(shared, nn.Flatten()), Wrapper(shared)
    factorize_(first, {"0.0": 2})
    factorize_(second, {"model.4": 3})
    wanted = [Factorize("0", "spatial_svd", 2), Factorize("4", "linear_svd", 3)]
    assert edits_of(shared) == wanted
    shared.eval()
    for model, around in ((shared, lambda n: n), (first, lambda n: nn.Sequential(n, nn.Flatten())), (second, Wrapper)):
        comes_back(model, shared, around, tmp_path / "small.pt")

    with pytest.raises(
        ValueError, match=r"the edit of 'a.0' does not fit: its parameters are tied: a.0.bias, .* b.0.bi"
    ):
        save(nn.ModuleDict({"a": shared, "b": shared}), tmp_path / "both.pt")
    assert not (tmp_path / "both.pt").exists()


def test_several_processes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        outside = nn.parallel.DistributedDataParallel(dense())
        remove_(outside.module, {"0": [0, 2, 3]}, images())
        factorize_(outside.eval(), {"module.0": 2, "module.4": 2})
        comes_back(outside, outside.module, lambda network: network, tmp_path / "small.pt")
        comes_back(outside, outside.module, nn.parallel.DistributedDataParallel, tmp_path / "small.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_averaged_models_keep_their_count(tmp_path):
    averaged = AveragedModel(compressed_(dense()))
    averaged.update_parameters(averaged.module)
    averaged.update_parameters(averaged.module)
    again = comes_back(averaged, averaged.module, AveragedModel, tmp_path / "averaged.pt")
    assert again.n_averaged.item() == 2
    save(averaged.module, tmp_path / "inner.pt")
    assert load(tmp_path / "inner.pt", model=AveragedModel(dense())).n_averaged.item() == 0


@pytest.mark.parametrize("around", [nn.DataParallel, compiled, AveragedModel], ids=["parallel", "compiled", "averaged"])
def test_a_network_of_ours_in_a_wrapper_is_loaded_by_its_name(around, tmp_path):
    torch.manual_seed(0)
    model = factorize_(lenet5(), {"conv2": 3})
    save(around(model), tmp_path / "lenet.pt")
    again = load(tmp_path / "lenet.pt")
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(again(x), model.eval()(x))
    assert again.zoo["name"] == "lenet5"


def test_a_whole_network_in_a_pickle_keeps_its_edits_and_their_order(tmp_path):
    torch.save(compressed_(dense()), tmp_path / "pickled.pt")
    again = torch.load(tmp_path / "pickled.pt", weights_only=False)
    assert edits_of(again) == EDITS
    factorize_(again, {"0.0": 2})
    assert edits_of(again) == [*EDITS, Factorize("0.0", "spatial_svd", 2)]
    comes_back(again, again, lambda network: network, tmp_path / "small.pt")


def test_what_is_done_inside_one_container_is_undone_inside_another(tmp_path):
    model = dense().eval()
    compressed_(nn.DataParallel(model), "module.")
    recompose_(Wrapper(model), ["model.0", "model.4"])
    left = [edit for edit in EDITS if edit not in (EDITS[3], EDITS[4])]
    assert edits_of(model) == left
    comes_back(model, model, lambda network: network, tmp_path / "small.pt")

    model = dense().eval()
    to_svd_(Wrapper(model), {"conv": "spatial_svd"}, layers=["model.0", "model.4"])
    comes_back(model, model, lambda network: network, tmp_path / "form.pt")
    truncate_(nn.Sequential(model), {"0.0": 2, "0.4": None})
    assert edits_of(model) == [Factorize("0", "spatial_svd", 2)]
    comes_back(model, model, lambda network: network, tmp_path / "small.pt")


def test_factors_alone_are_a_network_of_their_own(tmp_path):
    model = compressed_(dense())
    for part in (model[0], nn.Sequential(*model[0])):
        assert edits_of(part) == []
        save(part, tmp_path / "part.pt")
        again = load(tmp_path / "part.pt", model=copy.deepcopy(part))
        assert torch.equal(again[1].weight, model[0][1].weight)
    assert edits_of(nn.Sequential(*model)) == EDITS


def test_a_graph_through_a_shortcut_that_lost_channels_is_refused(tmp_path):
    model = cifar_resnet(depth=8).eval()
    graph = torch.fx.symbolic_trace(model)
    save(graph, tmp_path / "dense.pt")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(tmp_path / "dense.pt", model=cifar_resnet(depth=8))(x), model(x))
    remove_(model, {"conv1": range(0, 64, 2)}, x)
    with pytest.raises(ValueError, match=r"torch\.fx went through a PadShortcut after channels had been removed"):
        save(torch.fx.symbolic_trace(model), tmp_path / "small.pt")
    save(model, tmp_path / "small.pt")
    assert torch.equal(load(tmp_path / "small.pt")(x), model(x))


def test_norms_that_were_converted_after_pruning_are_refused(tmp_path):
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    model = convert(compressed_(dense()))
    with pytest.raises(
        ValueError, match="convert_sync_batchnorm made 1 after channels had been removed: save it before"
    ):
        save(model, tmp_path / "small.pt")
    assert list(tmp_path.iterdir()) == []
    model = convert(factorize_(dense(), {"0": 3})).eval()
    comes_back(model, model, lambda network: network, tmp_path / "small.pt")
    comes_back(model, model, convert, tmp_path / "small.pt")
