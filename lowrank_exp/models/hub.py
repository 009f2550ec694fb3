"""Networks of other people's collections, by name: torchvision's classification networks, and timm's."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from lowrank_exp.models.constructor import check_choice, network
from lowrank_exp.models.published import PublishedWeights

SOURCES = ("torchvision", "timm")

# Arguments of builders that ours take the place of, or that would read files or the network while building.
TAKEN = {
    "num_classes": "model.num_classes",
    "in_chans": "model.in_channels",
    "image_size": "model.input_size",
    "input_size": "model.input_size",
    "weights": "model.weights",
    "pretrained": "model.weights",
    "pretrained_cfg": "model.weights",
    "pretrained_cfg_overlay": "model.weights",
    "checkpoint_path": "model.weights",
}

# Without the two additional classifiers that give a tuple in training; input as all other networks take it.
ONE_OUTPUT = {"aux_logits": False, "transform_input": True, "init_weights": True}
TORCHVISION_DEFAULTS = {"googlenet": ONE_OUTPUT, "inception_v3": ONE_OUTPUT}


@network
def hub(
    source: str = "torchvision",
    name: str = "resnet18",
    arguments: Mapping[str, Any] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    weights: str | None = None,
) -> nn.Module:
    """A classification network of torchvision (`torchvision.models.get_model`) or timm (`timm.create_model`).

    Input (N, in_channels, input_size, input_size), output logits (N, num_classes): checked on the meta device when
    the network is built. Start values, layers and parameter names are those of the collection, of the version that is
    installed: a file of such a network loads where that version builds the same one.

    Args:
        source: "torchvision" or "timm". timm is not a requirement of ours: `pip install timm`.
        name: as the collection calls it: `torchvision.models.list_models(module=torchvision.models)`,
            `timm.list_models()`.
        arguments: more arguments of the collection's builder, plain values: `{"dropout": 0.1}`.
        num_classes: outputs.
        in_channels: 3 with torchvision.
        input_size: side of the square image in pixels. torchvision's `vit_...` and `maxvit_t` are built for it; what
            of timm is built for one size takes it as `arguments={"img_size": ...}`.
        weights: path of a checkpoint to load, see `load_weights_`; with torchvision also the name of published
            weights such as `IMAGENET1K_V1`, which are downloaded once to `torch.hub.get_dir()/checkpoints`. They
            have the classes they were trained on, mostly 1000.

    Raises:
        ValueError: for an unknown source, name or argument, timm without timm, a size or number of channels that the
            network does not take, or weights that do not fit.
        FileNotFoundError: for weights that are not there and cannot be downloaded.

    Differs from torchvision: googlenet and inception_v3 are built without auxiliary classifiers and for input
    normalized as ImageNet's usually is, whether or not weights are given; `arguments` may say otherwise.

    >>> hub(name="squeezenet1_1", num_classes=7).classifier[1]
    Conv2d(512, 7, kernel_size=(1, 1), stride=(1, 1))
    """
    check_choice("source", source, SOURCES)
    arguments = dict(arguments or {})
    if taken := [argument for argument in arguments if argument in TAKEN]:
        raise ValueError(f"arguments={arguments} must not hold {taken[0]}: set {TAKEN[taken[0]]} instead")
    build = from_torchvision if source == "torchvision" else from_timm
    module = build(name, arguments, num_classes, in_channels, input_size)
    check_logits(module, f"{source}'s {name}", num_classes, (in_channels, input_size, input_size))
    return module


def from_torchvision(
    name: str, arguments: Mapping[str, Any], num_classes: int, in_channels: int, input_size: int
) -> nn.Module:
    """A classification network of torchvision, freshly initialised; its `published` are the weights it has names for.

    Raises:
        ValueError: for a name, channels or arguments that torchvision does not have.
    """
    from torchvision import models  # slow to import, and of no use to the other networks

    check_known(name, models.list_models(module=models), "torchvision")
    if in_channels != 3:
        raise ValueError(
            f"in_channels={in_channels}, but torchvision's networks take 3: set model.in_channels=3 (grey images are "
            "repeated to three channels), or replace the first convolution of torchvision's network in a constructor "
            "of your own"
        )
    if name.startswith("vit_"):
        sized = {"image_size": input_size}
    elif name == "maxvit_t":
        sized = {"input_size": (input_size, input_size)}
    else:
        sized = {}
    chosen = TORCHVISION_DEFAULTS.get(name, {}) | sized | arguments
    try:
        module = models.get_model(name, weights=None, num_classes=num_classes, **chosen)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"torchvision does not build {name} with {chosen}: {error}") from error
    weights = [each for each in models.get_model_weights(name) if each.meta["categories"]]  # null: no classifier
    files = {each.name: (each.url, len(each.meta["categories"])) for each in weights}
    module.published = PublishedWeights(f"torchvision's {name}", num_classes, files)
    return module


def from_timm(
    name: str, arguments: Mapping[str, Any], num_classes: int, in_channels: int, input_size: int
) -> nn.Module:
    """A network of timm, freshly initialised.

    Raises:
        ValueError: if timm is not installed, or for a name or arguments that it does not have.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"source=timm needs timm, which is not installed ({error}): pip install timm; or set "
            "model.source=torchvision"
        ) from error
    check_known(name, timm.list_models(), "timm")
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"timm does not build {name} with {dict(arguments)}: {error}") from error


def check_known(name: str, known: list[str], source: str) -> None:
    """Raise ValueError unless `name` is one of `known`, and then name those that are most like it."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=5, cutoff=0.5)
        raise ValueError(
            f"name={name!r} is not a classification network of {source}; "
            + (f"near it: {', '.join(near)}" if near else f"it has {len(known)}, {known[0]} to {known[-1]}")
        )


def check_logits(module: nn.Module, what: str, num_classes: int, input_shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless `module` in training gives (2, num_classes) logits for two images of `input_shape`.

    Runs on the meta device, with the module's tensors stood in for: nothing is computed, nothing changes. A module that
    lies there itself is not run: it was built to be compared with one that was.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    shape = " x ".join(map(str, input_shape))
    stand_ins = {name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    try:
        with torch.no_grad():
            logits = functional_call(module, stand_ins, (torch.zeros(2, *input_shape, device="meta"),))
    except Exception as error:  # torch and the collections raise many kinds
        raise ValueError(
            f"{what} does not take images of {shape}: {error}. Set model.input_size to one that it takes; a network "
            "for one size only may need it in model.arguments"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        output = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"{what} gives {output} for two images of {shape} in training, but (2, {num_classes}) logits are needed: "
            "set model.arguments so that it has one classifier"
        )
