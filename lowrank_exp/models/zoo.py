"""Rebuild a network from the name and arguments that it recorded, never from a `_target_` in a file."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from lowrank_exp.models.alexnet import alexnet, alexnet_torchvision
from lowrank_exp.models.cifar_resnet import cifar_resnet
from lowrank_exp.models.clip import clip
from lowrank_exp.models.densenet import densenet
from lowrank_exp.models.hub import hub
from lowrank_exp.models.lenet import lenet5, lenet_300_100
from lowrank_exp.models.resnet import resnet
from lowrank_exp.models.spp10 import spp10
from lowrank_exp.models.vanilla_cnn import vanilla_cnn
from lowrank_exp.models.vgg import vgg
from lowrank_exp.models.zeiler_fergus import zeiler_fergus

# A new network goes here and into the package's __init__.
CONSTRUCTORS = {
    constructor.__name__: constructor
    for constructor in (
        alexnet,
        alexnet_torchvision,
        cifar_resnet,
        clip,
        densenet,
        hub,
        lenet5,
        lenet_300_100,
        resnet,
        spp10,
        vanilla_cnn,
        vgg,
        zeiler_fergus,
    )
}


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network of ours, freshly initialised, as its `zoo` record says.

    Args:
        name: one of the constructors of this package, for example `"cifar_resnet"`.
        arguments: its arguments; what is left out has the constructor's default. `weights` is not among
            them: a record names no file.

    Raises:
        ValueError: for a name that is not ours, for arguments the constructor does not have, and for
            values that it refuses.

    >>> build("lenet5", {"num_classes": 7}).fc3.out_features
    7
    """
    if name not in CONSTRUCTORS:
        raise ValueError(f"no network is called {name!r}: there are {', '.join(sorted(CONSTRUCTORS))}")
    known = [argument for argument in inspect.signature(CONSTRUCTORS[name]).parameters if argument != "weights"]
    unknown = [str(argument) for argument in arguments if argument not in known]
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(unknown)}: it takes {', '.join(known)}")
    return CONSTRUCTORS[name](**arguments)
