import inspect
from collections.abc import Callable

import torch
import yaml

from lowrank_exp import models
from lowrank_exp.command_line.config_path import CONF
from support.cells import cells

FILES = sorted((CONF / "model").glob("*.yaml"))


def test_there_is_a_file_for_each_network_of_the_tables():
    names = {"lenet5", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"}
    names |= {"alexnet", "alexnet_small", "alexnet_torchvision", "lenet_300_100", "spp10", "zeiler_fergus"}
    names |= {"resnet18", "resnet34", "resnet50", "resnet18_imagenet", "resnet50_imagenet", "hub"}
    names |= {"vanilla3", "vanilla8", "vanilla13", "vanilla18", "densenet40", "densenet100", "densenet100_bc"}
    names |= {"vgg11", "vgg13", "vgg16", "vgg19", "vgg16_imagenet", "clip"}
    assert names <= {path.stem for path in FILES}


@cells("path", FILES, ids=lambda path: path.stem)
def test_every_argument_is_written_out_and_builds(path):
    config = yaml.safe_load(path.read_text())
    module, _, name = config.pop("_target_").rpartition(".")
    assert module == "lowrank_exp.models"
    constructor: Callable = getattr(models, name)
    assert list(config) == list(inspect.signature(constructor).parameters)
    assert config["weights"] is None
    assert config["num_classes"] == "${data.num_classes}"
    config["num_classes"] = 7
    with torch.device("meta"):
        network = constructor(**config)
        assert network(torch.zeros(2, *network.input_shape)).shape == (2, 7)
    if name == "cifar_resnet":
        assert path.stem == f"resnet{config['depth']}"
    if name == "resnet":
        assert path.stem == f"resnet{config['depth']}" + {"cifar": "", "imagenet": "_imagenet"}[config["stem"]]
    if name == "vgg":
        assert path.stem.removesuffix("_imagenet") == f"vgg{config['depth']}"
        assert (config["head"] == "imagenet") == path.stem.endswith("_imagenet")
    assert network.input_shape == (config["in_channels"], config["input_size"], config["input_size"])
