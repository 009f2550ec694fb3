import inspect
import json

import pytest
import torch
from torch import nn

from lowrank_exp.models import (
    alexnet,
    alexnet_torchvision,
    build,
    cifar_resnet,
    clip,
    densenet,
    hub,
    lenet5,
    lenet_300_100,
    network,
    resnet,
    spp10,
    vanilla_cnn,
    vgg,
    zeiler_fergus,
)
from lowrank_exp.models.zoo import CONSTRUCTORS

TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"layers": 1, "width": 8, "heads": 1},
}
EVERY = [  # thin and on small images where the network is one for ImageNet
    (alexnet, {"width": 0.1, "num_classes": 5, "input_size": 67}),
    (alexnet, {"groups": 1, "width": 0.05, "num_classes": 5, "in_channels": 1, "input_size": 80}),
    (alexnet_torchvision, {"width": 0.05, "num_classes": 5, "in_channels": 1, "input_size": 64}),
    (lenet5, {}),
    (lenet5, {"num_classes": 3, "in_channels": 3, "input_size": 20}),
    (cifar_resnet, {}),
    (cifar_resnet, {"depth": 8, "shortcut": "b", "num_classes": 100, "in_channels": 1, "input_size": 16}),
    (cifar_resnet, {"depth": 11, "block": "bottleneck"}),
    (cifar_resnet, {"depth": None, "blocks_per_stage": 2, "block": "bottleneck", "shortcut": "b"}),
    (clip, {"name": "ViT-B-32", "arguments": TINY_CLIP, "num_classes": 2, "input_size": 16}),
    (densenet, {"depth": 10, "growth": 4, "num_classes": 5, "input_size": 16}),
    (densenet, {"depth": 10, "growth": 4, "bottleneck": True, "reduction": 0.5, "in_channels": 1, "input_size": 8}),
    (hub, {"name": "squeezenet1_1", "arguments": {"dropout": 0.5}, "num_classes": 5, "input_size": 32}),
    (lenet_300_100, {}),
    (lenet_300_100, {"num_classes": 3, "in_channels": 3, "input_size": 4}),
    (resnet, {"width": 0.125}),
    (resnet, {"depth": 50, "stem": "imagenet", "width": 0.1, "num_classes": 5, "in_channels": 1, "input_size": 40}),
    (spp10, {"width": 0.05, "num_classes": 5, "in_channels": 1, "input_size": 79}),
    (vanilla_cnn, {}),
    (vanilla_cnn, {"convolutions": 2, "filters": 4, "batch_norm": False, "in_channels": 1, "input_size": 9}),
    (vgg, {"width": 0.25}),
    (vgg, {"depth": 11, "batch_norm": False, "head": "cifar512", "width": 0.1, "in_channels": 1, "input_size": 40}),
    (vgg, {"depth": 13, "head": "imagenet", "width": 0.05, "num_classes": 5}),
    (zeiler_fergus, {"width": 0.05, "num_classes": 5, "in_channels": 1, "input_size": 60}),
]


@pytest.mark.parametrize(("constructor", "arguments"), EVERY)
def test_the_record_rebuilds_the_network(constructor, arguments):
    first = constructor(**arguments)
    if constructor is clip:  # whose classifier is made of names
        first.classes_are_(["cat", "dog"])
    record = json.loads(json.dumps(first.zoo))
    assert record == first.zoo
    second = build(**record)
    assert second.zoo == first.zoo
    assert second.input_shape == first.input_shape
    shapes = {name: value.shape for name, value in first.state_dict().items()}
    assert {name: value.shape for name, value in second.state_dict().items()} == shapes
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, *first.input_shape)
    assert torch.equal(second.eval()(x), first.eval()(x))


def test_every_constructor_is_rebuilt_above():
    assert {constructor.__name__ for constructor, _ in EVERY} == set(CONSTRUCTORS)


def test_the_record_holds_all_arguments_but_weights(tmp_path):
    torch.save(lenet5(7).state_dict(), tmp_path / "weights.pt")
    module = lenet5(7, weights=str(tmp_path / "weights.pt"))
    assert module.zoo == {
        "name": "lenet5",
        "arguments": {"num_classes": 7, "in_channels": 1, "input_size": 32, "width": 1.0},
    }
    assert module.input_shape == (1, 32, 32)


def test_given_weights_are_loaded(tmp_path):
    donor = lenet5()
    torch.save(donor.state_dict(), tmp_path / "weights.pt")
    loaded = lenet5(weights=tmp_path / "weights.pt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in donor.state_dict().items())


def test_signature_and_docstring_stay():
    assert list(inspect.signature(lenet5).parameters) == [
        "num_classes",
        "in_channels",
        "input_size",
        "width",
        "weights",
    ]
    assert lenet5.__name__ == "lenet5"
    assert lenet5.__module__ == "lowrank_exp.models.lenet"
    assert "Differs from the paper" in lenet5.__doc__


def test_refuses_unknown_names_and_arguments():
    with pytest.raises(ValueError, match=r"no network is called 'lenet6': there are alexnet, .*, lenet5, "):
        build("lenet6", {})
    with pytest.raises(ValueError, match="lenet5 has no argument depth, shortcut: it takes num_classes, in_channels, "):
        build("lenet5", {"depth": 3, "shortcut": "a", "num_classes": 2})
    with pytest.raises(ValueError, match="lenet5 has no argument weights"):
        build("lenet5", {"weights": "elsewhere.pt"})
    with pytest.raises(ValueError, match="depth=21"):
        build("cifar_resnet", {"depth": 21})


def test_a_wrong_keyword_is_a_type_error_that_names_the_arguments():
    with pytest.raises(TypeError, match="lenet5: got an unexpected keyword argument 'classes'; its arguments are num_"):
        lenet5(classes=3)


def test_a_constructor_without_the_shared_arguments_is_refused():
    def tiny(num_classes: int, weights: str | None = None) -> nn.Module:
        return nn.Linear(1, num_classes)

    with pytest.raises(TypeError, match="tiny cannot be a network of the zoo: it must also take in_channels, input_s"):
        network(tiny)
