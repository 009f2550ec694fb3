"""CLIP as a zero-shot classifier: an image encoder, and a fixed classifier that a text encoder made of class names."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lowrank_exp.files.whole import open_told, write_whole
from lowrank_exp.models.clip_towers import SCALE, ClipWeights, architecture, image_tower, text_tower, tokenizer
from lowrank_exp.models.constructor import network
from lowrank_exp.models.hub import check_logits
from lowrank_exp.models.prompts import class_names as named
from lowrank_exp.models.prompts import prompt_templates, zero_shot_weight_EC

PIXEL = 0.01  # how far mean and deviation of the data may lie from the network's, in the scale 0..1


class ZeroShot(nn.Module):
    """Logits of images by their likeness to prompts: exp(t) * normalize(visual(x)) W, shape (N, C).

    `visual`, the image encoder, is all that is trained and compressed. The classifier `W` (E, C), `scale` exp(t) and
    `prompts`, a digest of the prompts that W was made of, are buffers: files have them, optimizers do not. Until
    `classes_are_` has been called, or a file with a W was loaded, there is no classifier, and a call is an error.

    Args:
        visual: (N, 3, H, W) to (N, E).
        published: the weights; it also keeps the text encoder's.
        class_names: see `clip`.
        templates: see `clip`.
        scale: exp(t).
    """

    def __init__(
        self,
        visual: nn.Module,
        published: ClipWeights,
        class_names: str | Sequence[str] | None,
        templates: str | Sequence[str],
        scale: float,
    ) -> None:
        super().__init__()
        self.visual = visual
        self.published = published
        self.class_names, self.templates = class_names, templates
        self.has_classes = False
        size = (published.config["embed_dim"], published.num_classes)
        self.register_buffer("W", torch.full(size, torch.nan))
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("prompts", torch.zeros(32, dtype=torch.uint8))
        self.register_load_state_dict_post_hook(_note_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W)."""
        if not self.has_classes and not self.W.is_meta:
            raise ValueError("this network does not know its classes yet: call network.classes_are_([...]) first")
        return self.scale * normalize(self.visual(x), dim=-1) @ self.W

    def classes_are_(
        self,
        names: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        cache: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> nn.Module:
        """Make the classifier of the names of the classes, in place, once; the text encoder is dropped afterwards.

        Without loaded weights the text encoder is a random one (seed 0). A network that has its classifier from a file
        keeps it: the names are then only compared with those it was made of.

        Args:
            names: of the classes, in the order of the labels; those of `class_names` go before them.
            device: where the texts are encoded.
            cache: a folder that keeps classifiers; a kept one is taken whatever the device.
            say: is told of classifiers that are not in the cache.

        Returns:
            The same network.

        Raises:
            ValueError: not as many names as `num_classes`, or other prompts than those of the file's classifier.
        """
        names, templates = named(self.class_names, names), prompt_templates(self.templates)
        if len(names) != self.W.shape[1]:
            raise ValueError(
                f"{len(names)} names of classes, and a classifier of {self.W.shape[1]}: set "
                f"model.num_classes={len(names)}"
            )
        prompts = json.dumps([names, templates])
        digest = torch.frombuffer(bytearray(hashlib.sha256(prompts.encode()).digest()), dtype=torch.uint8)
        if self.has_classes:
            if not torch.equal(digest, self.prompts.cpu()):
                raise ValueError(
                    f"the classifier in this network was made of other prompts than {names[:3]} ... in "
                    f"{templates[:2]} ..., and its text encoder is gone: give the names it was made of "
                    "(model.class_names, model.templates), or build the network anew of CLIP's own weights"
                )
            return self
        if not self.W.is_meta:
            self.W.copy_(self._weight_EC(names, templates, device, cache, say))
        self.prompts.copy_(digest)
        self.has_classes, self.published.text = True, None
        return self

    def warn_of_other_pixels(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> str | None:
        """A warning where `mean` and `std` of the data are not those that the network's weights expect; else None."""
        trained = {"mean": self.published.mean, "std": self.published.std}
        chosen = {"mean": mean, "std": std}
        for what, values in trained.items():
            own = list(chosen[what] or ()) * (3 if len(chosen[what] or ()) == 1 else 1)
            if len(own) != 3 or any(abs(a - b) > PIXEL for a, b in zip(own, values, strict=True)):
                settings = " ".join(f"data.{name}={[*each]}".replace(" ", "") for name, each in trained.items())
                return (
                    f"warning: data.{what}={own}, but this CLIP network was trained on images normalised otherwise, "
                    f"and its accuracy suffers: set {settings}"
                )
        return None

    def _weight_EC(
        self, names: list[str], templates: list[str], device: str | torch.device, cache: Path | None, say: Callable
    ) -> Tensor:
        """W, from the cache if it is there."""
        text = self.published.text
        content = hashlib.sha256(json.dumps([self.published.name, self.published.config, names, templates]).encode())
        for name, tensor in sorted((text or {}).items()):
            content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        stored = None if cache is None else Path(cache) / f"{content.hexdigest()[:32]}.pt"
        if stored is not None and stored.is_file():
            return torch.load(stored, weights_only=True)
        say(f"the classifier is made of {len(names)} names in {len(templates)} sentences each, on {device}")
        tower = text_tower(self.published.config, text)
        words = tokenizer(self.published.name, self.published.config["text_cfg"].get("context_length"))
        weight_EC = zero_shot_weight_EC(tower, words, names, templates, device)
        if stored is not None:
            with write_whole(stored) as temporary, open_told(temporary) as file:
                torch.save(weight_EC, file)
        return weight_EC


@network
def clip(
    name: str = "ViT-B-32",
    arguments: Mapping[str, Any] | None = None,
    class_names: str | Sequence[str] | None = None,
    templates: str | Sequence[str] = "simple",
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    weights: str | None = None,
) -> ZeroShot:
    """A CLIP network of open_clip as a zero-shot classifier of `num_classes` classes.

    Input (N, 3, input_size, input_size), output logits (N, num_classes). `classes_are_` gives it the names of the
    classes; a job does that with the names that the data have. The text encoder is only built for it, and in no file.

    Args:
        name: as open_clip calls it: `RN50`, `ViT-B-32`, `ViT-B-32-quickgelu`; `open_clip.list_models()` has them.
        arguments: over the configuration that open_clip has under that name:
            `{"vision_cfg": {"layers": 2, "width": 64}}`.
        class_names: a list; `imagenet`; None takes those that `classes_are_` is given.
        templates: `simple` (a photo of a {}.), `openai_imagenet` (80 sentences), `simple_imagenet` (7), or a list.
        num_classes: as many as there are names.
        in_channels: 3.
        input_size: side of the square image in pixels; weights are for one size.
        weights: path of an open_clip checkpoint, or one of open_clip's tags for the network, which is fetched once to
            the cache of Hugging Face: `laion2b_s34b_b79k`. OpenAI's need a name that ends in `-quickgelu`.

    Raises:
        ValueError: open_clip is not installed, a name or argument that it does not have, a size that the network does
            not take, or weights that do not fit.
        FileNotFoundError: weights that are not there and cannot be fetched.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, Figure 3.

    Differs from the paper: 1. images come as the data give them: their sizes are changed bilinearly, where open_clip
    does it bicubically, and cropped only as the data's settings say. 2. A bias of the logits (SigLIP) is left out: the
    order of classes does not depend on it.
    """
    if in_channels != 3:
        raise ValueError(
            f"in_channels={in_channels}, but CLIP takes 3: set model.in_channels=3 (grey images are repeated)"
        )
    prompt_templates(templates)
    if class_names is not None and (count := len(named(class_names, None))) != num_classes:
        raise ValueError(
            f"class_names has {count} names and num_classes is {num_classes}: set model.num_classes={count} (the data "
            "may have fewer classes than the network)"
        )
    config = architecture(name, arguments or {}, input_size)
    published = ClipWeights(name, config, num_classes)
    scale = math.exp(config.get("init_logit_scale", SCALE))
    module = ZeroShot(image_tower(config), published, class_names, templates, scale)
    check_logits(module, f"open_clip's {name}", num_classes, (in_channels, input_size, input_size))
    return module


def _note_classes(module: ZeroShot, incompatible: object) -> None:
    """After tensors were loaded: whether a classifier was among them."""
    module.has_classes = bool(module.prompts.any())
