"""The two encoders of a CLIP network of open_clip, each without the other, and the published weights of both."""

import copy
import functools
import math
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.models.hub import check_known
from lowrank_exp.models.weights import list_names

# What stands in for the encoder that is not wanted, so that open_clip's own constructor builds the other.
NO_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 8, "context_length": 8}
NO_IMAGE = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
SCALE = math.log(1 / 0.07)  # open_clip's start value of logit_scale


def open_clip() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import open_clip as library
    except ImportError as error:
        raise ValueError(
            f"model=clip needs open_clip, which is not installed ({error}): pip install 'lowrank_exp[clip]'"
        ) from error
    return library


def architecture(name: str, arguments: Mapping[str, Any], input_size: int) -> dict[str, Any]:
    """open_clip's configuration of `name`, with `arguments` over it, for images of `input_size`.

    Raises:
        ValueError: for a name that open_clip does not have, or a network that also writes captions.
    """
    library = open_clip()
    check_known(name, library.list_models(), "open_clip")
    config = _merge(library.get_model_config(name), arguments)
    if "multimodal_cfg" in config:
        raise ValueError(f"name={name!r} also writes captions (CoCa), and gives no single embedding: choose another")
    config["vision_cfg"]["image_size"] = input_size
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    return config


def image_tower(config: Mapping[str, Any]) -> nn.Module:
    """The image encoder of a configuration, freshly initialised: (N, 3, H, W) to (N, embed_dim)."""
    return _build({**config, "text_cfg": NO_TEXT, "custom_text": False}).visual


def text_tower(config: Mapping[str, Any], state: Mapping[str, Tensor] | None, seed: int = 0) -> nn.Module:
    """The text encoder of a configuration, with `encode_text`, on the CPU.

    Args:
        config: see `architecture`.
        state: its tensors by open_clip's names; None draws them, with `seed`, and touches no other generator.
        seed: of the draw.

    Raises:
        ValueError: the text encoder needs more than is installed, or `state` is of another one.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tower = _build({**config, "vision_cfg": NO_IMAGE})
    if state is not None:
        own = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith("visual.")}
        wrong = {
            "missing": [name for name in own if name not in state],
            "unexpected": [name for name in state if name not in own],
            "of another shape": [n for n in own if n in state and state[n].numel() != own[n].numel()],
        }
        if any(wrong.values()):
            counts = "; ".join(f"{len(names)} {kind}: {list_names(names)}" for kind, names in wrong.items() if names)
            raise ValueError(
                f"the weights do not fit the text encoder ({counts}): set model.name to the network they are of, or "
                "model.weights to a file with its text encoder"
            )
        tower.load_state_dict({name: tensor.view_as(own[name]) for name, tensor in state.items()}, strict=False)
    return tower


@functools.cache
def tokenizer(name: str, length: int | None) -> Any:
    """What turns sentences into `length` tokens each, as the network `name` takes them; None: its own length.

    Raises:
        ValueError: it needs more than is installed, or a download that fails.
    """
    try:
        return open_clip().get_tokenizer(name, context_length=length)
    except (ImportError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"open_clip has no tokenizer for {name} here: {error}") from error


class ClipWeights:
    """The weights that open_clip has names (tags) for, and CLIP checkpoints under the names of our network.

    It is the `published` of a network, see `lowrank_exp.models.load_weights_`. The tensors of the text encoder have no
    place in the network: the last checkpoint's are kept in `text` until the classifier has been made of them.

    Args:
        name: of the network in open_clip.
        config: see `architecture`.
        num_classes: of the classifier.
    """

    def __init__(self, name: str, config: Mapping[str, Any], num_classes: int) -> None:
        self.name, self.config, self.num_classes = name, config, num_classes
        self.text: dict[str, Tensor] | None = None
        library = open_clip()
        self.mean, self.std = library.OPENAI_DATASET_MEAN, library.OPENAI_DATASET_STD

    def file(self, weights: str | os.PathLike) -> str | os.PathLike:
        """The file of that tag, fetched once (Hugging Face's cache), or `weights` itself, a path.

        `mean` and `std` are then those that the tag's images were normalised with.

        Raises:
            ValueError: the tag's weights were trained with QuickGELU and the network has GELU, or the other way.
            FileNotFoundError: neither a tag nor a file, or a file that cannot be fetched.
        """
        library = open_clip()
        tags = library.list_pretrained_tags_by_model(self.name)
        if str(weights) not in tags:
            if Path(weights).exists():
                return weights
            raise FileNotFoundError(
                f"weights={str(weights)!r} is not a file ({Path(weights).absolute()}), nor a tag that open_clip has "
                f"for {self.name}: it has {', '.join(tags) or 'none'}"
            )
        tag = library.get_pretrained_cfg(self.name, str(weights))
        trained, built = (bool(each.get("quick_gelu", False)) for each in (tag, self.config))
        if trained != built:
            other = self.name + "-quickgelu" if trained else self.name.removesuffix("-quickgelu")
            by_name = other != self.name and other in library.list_models()
            remedy = f"model.name={other}" if by_name else f"++model.arguments.quick_gelu={str(trained).lower()}"
            kinds = ("GELU", "QuickGELU")
            raise ValueError(
                f"weights={weights} of {self.name} were trained with {kinds[trained]} and the network has "
                f"{kinds[built]}: its answers would be wrong. Set {remedy}"
            )
        self.mean, self.std = tag.get("mean", self.mean), tag.get("std", self.std)
        try:
            return library.download_pretrained(tag)
        except (OSError, RuntimeError, ValueError) as error:  # no network, no such file; Hugging Face's are OSError
            raise FileNotFoundError(
                f"weights={weights} of {self.name} are not in the cache of Hugging Face, and to fetch them failed: "
                f"{error}. Fetch them on a machine with network access, or set model.weights to where you have the file"
            ) from error

    def translate(self, state: Mapping[str, Tensor], known: Set[str]) -> dict[str, Tensor]:
        """The tensors of a CLIP checkpoint under the names of our network, `known`; of our own network as they are.

        The classifier is left open, and `text` holds what it can be made of.

        Raises:
            ValueError: images of another size.
        """
        self.text = None
        if "W" in state:
            return dict(state)
        visual = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        self.text = {name: tensor for name, tensor in state.items() if name not in visual}
        for name, tensor in visual.items():
            if name.endswith("positional_embedding") and name in known and tensor.dim() == 2:
                self._check_size(name, tensor)
        log_scale = self.text.get("logit_scale", torch.tensor(SCALE))
        return visual | {
            "W": torch.full((self.config["embed_dim"], self.num_classes), torch.nan),
            "scale": log_scale.float().exp().reshape(()),
            "prompts": torch.zeros(32, dtype=torch.uint8),
        }

    def _check_size(self, name: str, positions: Tensor) -> None:
        vision = self.config["vision_cfg"]
        step = 32 if "attnpool" in name else vision["patch_size"]
        size = vision["image_size"]
        if isinstance(size, int) and len(positions) != (size // step) ** 2 + 1:
            side = math.isqrt(len(positions) - 1) * step
            raise ValueError(
                f"the weights are for images of {side} x {side}, the network of {size}: set model.input_size={side}"
            )


def _build(config: Mapping[str, Any]) -> nn.Module:
    library = open_clip()
    arguments = copy.deepcopy({key: value for key, value in config.items() if key != "custom_text"})
    separate = config.get("custom_text", False) or "hf_model_name" in config["text_cfg"]
    try:
        return (library.CustomTextCLIP if separate else library.CLIP)(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"open_clip does not build a network of {arguments}: {error}") from error


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, key by key, within mappings too."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
