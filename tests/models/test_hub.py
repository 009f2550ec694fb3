import copy
import json
import pickle
import re
import sys
import types
import urllib.error

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from lowrank_exp import artifact
from lowrank_exp.models import build, hub, load_weights_, weights_file

SMALL = "squeezenet1_1"


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """torch.hub's folder, empty; no download succeeds."""

    def no_network(*arguments, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published_by_torchvision(name, checkpoints, state, weights="IMAGENET1K_V1"):
    """Put `state` where torchvision keeps its file; return the network that torchvision then builds."""
    member = torchvision.models.get_model_weights(name)[weights]
    torch.save(state, checkpoints / member.url.rpartition("/")[2])
    return torchvision.models.get_model(name, weights=member).eval()


def test_network_and_start_are_those_of_torchvision():
    torch.manual_seed(5)
    theirs = torchvision.models.get_model(SMALL, num_classes=7)
    torch.manual_seed(5)
    ours = hub(name=SMALL, num_classes=7, input_size=64)
    assert type(ours) is type(theirs)
    assert same(ours.state_dict(), theirs.state_dict())
    assert ours.training
    assert ours.input_shape == (3, 64, 64)


def test_building_draws_no_random_number_besides_torchvision():
    torch.manual_seed(5)
    torchvision.models.get_model(SMALL, num_classes=7)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hub(name=SMALL, num_classes=7)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "input_size"),
    [
        ("alexnet", 63),
        ("convnext_tiny", 32),
        ("googlenet", 32),
        ("inception_v3", 75),
        ("maxvit_t", 224),
        ("swin_t", 32),
        ("vgg16", 32),
        ("vit_b_32", 224),
    ],
)
def test_every_family_has_the_parameters_that_torchvision_documents(name, input_size):
    with torch.device("meta"):
        network = hub(name=name, input_size=input_size)
    documented = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    auxiliary = 3_326_696 if name == "inception_v3" else 0  # counted there, left out here
    assert sum(p.numel() for p in network.parameters()) == documented - auxiliary


def test_a_network_that_computes_with_tensors_while_it_is_built():
    """regnet_... cannot be built on the meta device, only copied to it."""
    assert hub(name="regnet_x_400mf", num_classes=3, input_size=32).fc.out_features == 3


def test_input_size_decides_the_positions_of_a_vision_transformer():
    with torch.device("meta"):
        network = hub(name="vit_b_32", input_size=64, num_classes=3)
    assert network.encoder.pos_embedding.shape == (1, 1 + 2 * 2, 768)


def test_the_record_is_plain_and_rebuilds(tmp_path):
    ours = hub(name=SMALL, arguments=OmegaConf.create({"dropout": 0.5}), num_classes=7, input_size=32)
    assert json.loads(json.dumps(ours.zoo)) == ours.zoo
    assert ours.zoo["arguments"]["arguments"] == {"dropout": 0.5}
    assert type(ours.zoo["arguments"]["arguments"]) is dict
    assert [module.p for module in ours.modules() if isinstance(module, nn.Dropout)] == [0.5]
    again = build(**ours.zoo)
    again.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), ours.eval()(x))
    artifact.save(ours, tmp_path / "model.pt")
    assert torch.equal(artifact.load(tmp_path / "model.pt")(x), ours(x))


def test_pickled_or_copied_it_is_the_same_network():
    network = hub(name=SMALL, num_classes=2, input_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert torch.equal(other(x), network(x))
        assert other.zoo == network.zoo
        assert other.published == network.published


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_from_a_path(tmp_path):
    donor = torchvision.models.get_model(SMALL, num_classes=7)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    assert same(hub(name=SMALL, num_classes=7, weights=tmp_path / "w.pth").state_dict(), donor.state_dict())
    with pytest.raises(
        ValueError, match=r"2 of another shape: classifier\.1\.weight \(7, 512, 1, 1\) in the file, \(8, 512"
    ):
        hub(name=SMALL, num_classes=8, weights=tmp_path / "w.pth")


def test_weights_by_name_are_those_of_torchvision(checkpoints):
    state = torchvision.models.get_model(SMALL).state_dict()
    theirs = published_by_torchvision(SMALL, checkpoints, state)
    ours = hub(name=SMALL, weights="IMAGENET1K_V1", input_size=32)
    assert same(ours.state_dict(), theirs.state_dict())
    assert same(ours.state_dict(), state)
    assert "weights" not in ours.zoo["arguments"]
    file = checkpoints / "squeezenet1_1-b8a52dc0.pth"
    assert weights_file(ours, "IMAGENET1K_V1") == file
    assert weights_file(ours, file) == file
    later = hub(name=SMALL, input_size=32)
    load_weights_(later, "IMAGENET1K_V1")
    assert same(later.state_dict(), state)


def test_old_names_in_files_of_densenet():
    """norm.1 is norm1 there; every tensor goes to its own name, whichever of the two the file has."""
    with torch.device("meta"):
        network = hub(name="densenet121", input_size=32)
    own = network.state_dict().keys()
    state = {name: torch.tensor(i) for i, name in enumerate(own)}
    old = {re.sub(r"(layer\d+\.(?:norm|relu|conv))([12])", r"\1.\2", name): value for name, value in state.items()}
    assert len(old.keys() - own) == 58 * 2 * (5 + 1)  # layers; tensors of a batch norm and a convolution
    assert network.published.translate(old, own) == state == network.published.translate(state, own)


def test_auxiliary_classifiers_stay_out_and_input_is_that_of_the_other_networks(checkpoints):
    donor = torchvision.models.GoogLeNet(init_weights=False, aux_logits=True)
    theirs = published_by_torchvision("googlenet", checkpoints, donor.state_dict())
    ours = hub(name="googlenet", weights="IMAGENET1K_V1", input_size=64).eval()
    assert not [name for name in ours.state_dict() if name.startswith("aux")]
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


def test_weights_that_cannot_be_downloaded(checkpoints):
    with pytest.raises(FileNotFoundError) as error:
        hub(weights="IMAGENET1K_V1")
    assert str(error.value) == (
        "weights=IMAGENET1K_V1 of torchvision's resnet18: the file resnet18-f37072fd.pth is not in "
        f"{checkpoints}, and to download it (path /models/resnet18-f37072fd.pth) failed: <urlopen error no route>. "
        "Put the file there from a machine with network access, or set model.weights to where you have it"
    )


def test_a_download_is_checked_against_the_digest_in_its_name(checkpoints, monkeypatch):
    calls = []

    def download(address, file, digest):
        calls.append((address.rpartition("/")[2], file, digest))
        torch.save(torchvision.models.get_model(SMALL).state_dict(), file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        hub(name=SMALL, weights="IMAGENET1K_V1", input_size=32)
    name = "squeezenet1_1-b8a52dc0.pth"
    assert calls == [(name, str(checkpoints / name), "b8a52dc0")]


def test_weights_of_other_classes_are_refused_before_any_download(checkpoints):
    with pytest.raises(ValueError, match=r"know 1000 classes, but num_classes=10: set model\.num_classes=1000 \(the"):
        hub(num_classes=10, weights="IMAGENET1K_V1")


def test_a_name_that_is_no_weights_names_those_that_are(checkpoints):
    with torch.device("meta"):
        network = hub(name="resnet50", input_size=32)
    with pytest.raises(FileNotFoundError, match=r"weights='IMAGENET' is not a file \(.*\), nor published weights of t"):
        load_weights_(network, "IMAGENET")
    with pytest.raises(FileNotFoundError, match=r"resnet50: it has IMAGENET1K_V1, IMAGENET1K_V2$"):
        load_weights_(network, "DEFAULT")


def test_weights_without_a_classifier_have_no_name_here():
    with torch.device("meta"):
        assert list(hub(name="vgg16", input_size=32).published.files) == ["IMAGENET1K_V1"]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "keras"}, r"source='keras', but it must be one of torchvision, timm"),
        ({"name": "resnet19"}, r"name='resnet19' is not a classification network of torchvision; near it: resnet1"),
        ({"name": "fasterrcnn_resnet50_fpn"}, r"is not a classification network of torchvision"),
        ({"in_channels": 1}, r"in_channels=1, but torchvision's networks take 3: set model\.in_channels=3"),
        ({"arguments": {"weights": "DEFAULT"}}, r"must not hold weights: set model\.weights instead"),
        ({"arguments": {"num_classes": 3}}, r"must not hold num_classes: set model\.num_classes instead"),
        ({"arguments": {"colour": 3}}, r"torchvision does not build resnet18 with \{'colour': 3\}: .*colour"),
        ({"name": "vit_b_32", "input_size": 50}, r"torchvision does not build vit_b_32 with \{'image_size': 50\}"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        hub(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "alexnet", "input_size": 32}, r"torchvision's alexnet does not take images of 3 x 32 x 32: "),
        (
            {"name": "googlenet", "arguments": {"aux_logits": True, "init_weights": False}, "input_size": 64},
            r"googlenet gives GoogLeNetOutputs for two images of 3 x 64 x 64 in training, but \(2, 1000\) logits",
        ),
    ],
)
def test_refuses_what_gives_no_logits(arguments, message):
    with pytest.raises(ValueError, match=message):
        hub(**arguments)


# -- timm, which is not a requirement: a stand-in ----------------------------------------------------------------------


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"source=timm needs timm, which is not installed .*: pip install timm; or set"
    ):
        hub(source="timm", name="resnet18")


def test_with_timm(monkeypatch):
    calls = []

    def create_model(name, pretrained, num_classes, in_chans, **arguments):
        calls.append((name, pretrained, num_classes, in_chans, arguments))
        if "colour" in arguments:
            raise TypeError("unexpected colour")
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 64, num_classes))

    timm = types.SimpleNamespace(list_models=lambda: ["tiny_vit", "tinynet"], create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = hub("timm", "tinynet", {"drop_rate": 0.1}, num_classes=5, in_channels=1, input_size=8)
    assert calls == [("tinynet", False, 5, 1, {"drop_rate": 0.1})]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"timm's tinynet does not take images of 1 x 9 x 9: "):
        hub("timm", "tinynet", in_channels=1, input_size=9)
    with pytest.raises(ValueError, match=r"timm does not build tinynet with \{'colour': 1\}: unexpected colour"):
        hub("timm", "tinynet", {"colour": 1})
    with pytest.raises(
        ValueError, match=r"name='hf-hub:a/tinynet' is not a classification network of timm; near it: tiny"
    ):
        hub("timm", "hf-hub:a/tinynet")
    with pytest.raises(ValueError, match=r"must not hold pretrained: set model\.weights instead"):
        hub("timm", "tinynet", {"pretrained": True})
    with pytest.raises(FileNotFoundError, match=r"no weights at some\.pt"):
        hub("timm", "tinynet", in_channels=1, input_size=8, weights="some.pt")
