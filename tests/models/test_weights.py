import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lowrank_exp.models import cifar_resnet, lenet5, load_weights_, read_state


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture
def donor():
    torch.manual_seed(1)
    return lenet5()


FORMS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "best_prec1": 91.78},
    "model": lambda state: {"model": state, "epoch": 3},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "lightning": lambda state: {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": prefixed(state, "network."),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    },
    "two prefixes": lambda state: {"state_dict": prefixed(state, "model.module.")},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_form_gives_the_same_tensors(form, zipped, donor, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(FORMS[form](donor.state_dict()), path, _use_new_zipfile_serialization=zipped)
    assert same(read_state(path), dict(donor.state_dict()))
    module = lenet5()
    load_weights_(module, str(path))
    assert same(module.state_dict(), donor.state_dict())


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert list(read_state(tmp_path / "w.pt")) == ["module.a", "b"]


def test_a_module_whose_own_names_have_a_prefix_keeps_it(donor, tmp_path):
    torch.save(nn.ModuleDict({"model": donor}).state_dict(), tmp_path / "w.pt")
    other = nn.ModuleDict({"model": lenet5()})
    load_weights_(other, tmp_path / "w.pt")
    assert same(other.state_dict(), nn.ModuleDict({"model": donor}).state_dict())


def test_files_of_old_pytorch_have_no_batch_counts(tmp_path):
    torch.manual_seed(1)
    donor = cifar_resnet(depth=8)
    donor(torch.randn(2, 3, 32, 32))
    state = {name: value for name, value in donor.state_dict().items() if "num_batches_tracked" not in name}
    torch.save({"state_dict": prefixed(state, "module.")}, tmp_path / "w.th")
    with pytest.warns(UserWarning, match=r"w\.th: took state_dict, without the prefix module\.$"):
        loaded = cifar_resnet(depth=8, weights=str(tmp_path / "w.th")).state_dict()
    assert same({name: loaded[name] for name in state}, state)
    assert loaded["bn1.num_batches_tracked"] == 0


def test_missing_unexpected_and_reshaped_names_are_listed(donor, tmp_path):
    state = donor.state_dict()
    del state["conv1.bias"]
    state.update({f"extra{i}": torch.ones(1) for i in range(7)})
    state["fc3.weight"] = torch.ones(100, 84)
    torch.save(state, tmp_path / "w.pt")
    module = lenet5()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit LeNet5") as error:
        load_weights_(module, tmp_path / "w.pt")
    assert str(error.value) == (
        f"{tmp_path / 'w.pt'} does not fit LeNet5 (1 missing: conv1.bias; 7 unexpected: extra0, extra1, "
        "extra2, extra3, extra4 and 2 more; 1 of another shape: fc3.weight (100, 84) in the file, (10, 84) "
        "in the network). The file fits another network: set model=..., model.depth=..., "
        "model.num_classes=..."
    )
    assert same(module.state_dict(), before)


def test_another_depth_does_not_fit(tmp_path):
    torch.save(cifar_resnet(depth=14).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"36 unexpected: layer1\.1\.conv1\.weight, .* and 31 more\)"):
        cifar_resnet(depth=8, weights=tmp_path / "w.pt")
    torch.save(cifar_resnet(depth=8).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"30 missing: layer1\.1\.conv1\.weight, .* and 25 more\)"):
        cifar_resnet(depth=14, weights=tmp_path / "w.pt")


@pytest.mark.parametrize("classes", [3, 1000])
def test_a_classifier_of_another_size_names_the_setting(classes, tmp_path):
    torch.save(lenet5(classes).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=rf"knows {classes} classes: set model\.num_classes={classes} \(the data may"):
        lenet5(10, weights=tmp_path / "w.pt")


def test_another_width_is_no_matter_of_classes(tmp_path):
    torch.save(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"\. The file fits another network: set model="):
        load_weights_(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), tmp_path / "w.pt")


def test_a_safetensors_file_gives_the_same_tensors(donor, tmp_path):
    save_file(prefixed(donor.state_dict(), "network.module."), tmp_path / "w.safetensors")
    assert same(read_state(tmp_path / "w.safetensors"), dict(donor.state_dict()))
    with pytest.warns(UserWarning, match=r"w\.safetensors: took its tensors, without the prefix network\.module\.$"):
        module = lenet5(weights=tmp_path / "w.safetensors")
    assert same(module.state_dict(), donor.state_dict())


def test_a_safetensors_file_of_another_network(donor, tmp_path):
    save_file(
        {"conv1.weight": torch.ones(2)} | {f"extra{i}": torch.ones(1) for i in range(6)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(
        ValueError, match=r"9 missing: conv1\.bias, .*; 6 unexpected: extra0, .* and 1 more; 1 of another"
    ):
        lenet5(weights=tmp_path / "w.safetensors")


def test_damaged_safetensors_files(donor, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(donor.state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"hello world, this is text"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"w\.safetensors is not a safetensors file, or a damaged one \(.+\): fetch it again"
        ):
            read_state(path)
    torch.save(donor.state_dict(), path)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_state(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*w\.safetensors"):
        read_state(path)
    save_file({}, path)
    with pytest.raises(ValueError, match="is not a checkpoint: it holds a dict with nothing in it"):
        read_state(path)


def test_on_the_meta_device_only_the_fit_is_checked(donor, tmp_path):
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")
        module = lenet5(weights=tmp_path / "w.pt")
        assert all(parameter.is_meta for parameter in module.parameters())
        with pytest.raises(ValueError, match=r"2 of another shape: fc3\.weight \(10, 84\) in the file"):
            lenet5(num_classes=3, weights=tmp_path / "w.pt")


def test_a_missing_file_is_named_as_given_and_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        lenet5(weights="no/such.pt")
    assert str(error.value) == (
        f"no weights at no/such.pt (that is {tmp_path / 'no' / 'such.pt'}): set model.weights=... to a file "
        "that exists, or to null to start untrained"
    )


def test_a_compressed_network_is_sent_to_its_own_loader(donor, tmp_path):
    content = {"format": "lowrank_exp", "edits": [], "state_dict": donor.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"is a compressed network: load it by lowrank_exp\.load\('.*model\.pt'\)"):
        lenet5(weights=tmp_path / "model.pt")


def test_files_that_are_no_checkpoints(donor, tmp_path):
    (tmp_path / "text.pt").write_text("hello world, this is text")
    (tmp_path / "empty.pt").touch()
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("a", "b")
    torch.save(donor.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "empty", "archive", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.pt is not a checkpoint that torch\.load reads"):
            read_state(tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match="is a folder"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "a dict with nothing in it"),
        ({"lr": 0.1, "state_dict": 3}, "a dict with lr, state_dict"),
        ([torch.ones(1)], "list"),
        (torch.ones(1), "Tensor"),
    ],
)
def test_files_without_a_state_dict(content, found, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"is not a checkpoint: it holds {found}; a state dict is needed"):
        read_state(tmp_path / "w.pt")
