import os

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, load, profile, save
from lowrank_exp.artifact import is_artifact, load_into_, read
from lowrank_exp.models import cifar_resnet, lenet5
from lowrank_exp.surgery import Factorize, edits_of


def own(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 4))


def image(seed=1, side=8):
    return torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small(tmp_path):
    model = factorize_(own(), {"0": 2, "3": 3})
    model(image())  # moves the statistics of the batch norm
    path = tmp_path / "small.pt"
    save(model, path)
    return model.eval(), path


def test_a_network_of_ours_comes_back_from_its_name(tmp_path):
    torch.manual_seed(0)
    model = factorize_(cifar_resnet(depth=8, num_classes=7), {"re:.*conv1": 3}).eval()
    save(model, tmp_path / "small.pt")
    again = load(str(tmp_path / "small.pt"))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert edits_of(again) == edits_of(model)
    assert again.zoo == model.zoo
    assert not again.training


def test_a_network_of_others_comes_back_into_its_constructor(small):
    model, path = small
    again = load(path, model=own(seed=9))
    torch.testing.assert_close(again(image()), model(image()), rtol=0, atol=0)
    assert edits_of(again) == [Factorize("0", "spatial_svd", 2), Factorize("3", "linear_svd", 3)]
    assert not any(module.training for module in again.modules())
    with pytest.raises(ValueError, match=r"is not a network of our zoo: pass the dense one, load\(path, model="):
        load(path)


def test_a_dense_network_can_be_saved_too(tmp_path):
    model = own().eval()
    save(model, tmp_path / "dense.pt")
    again = load(tmp_path / "dense.pt", model=own(seed=5))
    torch.testing.assert_close(again(image()), model(image()), rtol=0, atol=0)
    assert edits_of(again) == []


def test_a_network_made_in_inference_mode_is_compressed_and_saved_as_any(tmp_path):
    with torch.inference_mode():
        model = own().eval()
    with torch.no_grad():
        wanted = model(image())
        layers = profile(model, image(), "channel_svd")
        factorize_(model, {"0": layers["0"].full_rank, "3": layers["3"].full_rank}, "channel_svd")
        torch.testing.assert_close(model(image()), wanted, rtol=1e-4, atol=1e-5)
        save(model, tmp_path / "model.pt")
        again = load(tmp_path / "model.pt", model=own(seed=5))
        torch.testing.assert_close(again(image()), model(image()), rtol=0, atol=0)


def test_the_file_holds_plain_values_and_tensors_on_the_cpu(small):
    model, path = small
    content = torch.load(path, weights_only=True)
    assert content["format"] == "lowrank_exp"
    assert content["version"] == 2
    assert content["network"] is None
    assert [record["rank"] for record in content["edits"]] == [2, 3]
    assert content["state_dict"].keys() == model.state_dict().keys()
    assert {tensor.device.type for tensor in content["state_dict"].values()} == {"cpu"}
    assert not any(tensor.requires_grad for tensor in content["state_dict"].values())


def test_the_loaded_network_can_be_factorized_and_saved_again(small, tmp_path):
    _, path = small
    again = factorize_(load(path, model=own()), {"0.0": 1})
    save(again, tmp_path / "smaller.pt")
    twice = load(tmp_path / "smaller.pt", model=own(seed=4))
    torch.testing.assert_close(twice(image()), again(image()), rtol=0, atol=0)
    assert [edit.layer for edit in edits_of(twice)] == ["0", "3", "0.0"]


def write(path, **changes):
    content = torch.load(path, weights_only=True) | changes
    torch.save(content, path)


def test_a_newer_version_is_refused(small):
    _, path = small
    write(path, version=4)
    with pytest.raises(ValueError, match="has version 4; this lowrank_exp reads up to 3: upgrade it"):
        load(path, model=own())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "was not written by lowrank_exp.save"),
        ([1, 2], "was not written by lowrank_exp.save"),
        (torch.zeros(3), "was not written by lowrank_exp.save"),
        ({"format": "another"}, "was not written by lowrank_exp.save"),
        (nn.Linear(2, 2), "cannot be read as a network file"),
        (Evil(), "cannot be read as a network file"),
        (b"", "cannot be read as a network file"),
        (b"hello", "cannot be read as a network file"),
    ],
    ids=["dict", "list", "tensor", "another format", "module", "code", "empty", "text"],
)
def test_other_files_are_refused_and_nothing_is_executed(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        load(path, model=own())
    assert str(path) in str(caught.value)
    assert not is_artifact(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.pt"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(small, share):
    _, path = small
    assert is_artifact(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"small\.pt cannot be read as a network file"):
        load(path, model=own())
    assert not is_artifact(path)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the network file .*none.pt does not exist \(looked for /"):
        load(tmp_path / "none.pt")
    assert not is_artifact(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "does not fit this network; .* not of our zoo. the edit of '0' does not fit"),
        (own(width=5), r"does not fit this network; .*of another shape: 1.weight \(6,\) in the file, \(5,\)"),
        (nn.Sequential(*own(), nn.Linear(4, 4)), "does not fit this network; .* 2 missing: 4.weight, 4.bias"),
    ],
    ids=["another layer", "another width", "one layer more"],
)
def test_a_network_that_does_not_fit_is_refused(small, model, message):
    _, path = small
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(path, model=model)


def test_a_file_of_ours_names_the_network_it_is_of(tmp_path):
    save(lenet5(), tmp_path / "lenet.pt")
    with pytest.raises(ValueError, match=r"(?s)was made from {.*'name': 'lenet5'}. 9 missing: 0.weight, 0.bias"):
        load(tmp_path / "lenet.pt", model=own())


def test_an_edited_network_is_no_place_to_load_into(small):
    model, path = small
    with pytest.raises(ValueError, match="must be loaded into the dense network, but this one has been edited"):
        load_into_(model, path)


def test_edits_of_a_part_are_saved_with_the_whole_and_alone(tmp_path):
    model = nn.Sequential(own(), nn.ReLU())
    factorize_(model[0], {"0": 2})
    save(model, tmp_path / "whole.pt")
    save(model[0], tmp_path / "part.pt")
    assert edits_of(load(tmp_path / "whole.pt", model=nn.Sequential(own(seed=3), nn.ReLU()))) == [
        Factorize("0.0", "spatial_svd", 2)
    ]
    assert edits_of(load(tmp_path / "part.pt", model=own(seed=3))) == [Factorize("0", "spatial_svd", 2)]


def test_a_save_that_fails_leaves_the_older_file(small, monkeypatch):
    model, path = small
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        save(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["small.pt"]


def test_saved_into_a_folder_that_does_not_exist_yet(tmp_path):
    save(own(), tmp_path / "a" / "b" / "small.pt")
    assert read(tmp_path / "a" / "b" / "small.pt")["edits"] == []
