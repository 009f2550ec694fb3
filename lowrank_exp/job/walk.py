"""A method taken over the shapes of a network before anything is trained: what cannot be ends here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lowrank_exp.command_line.deltas import nest_recipes
from lowrank_exp.job.outcomes import check_name
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.inputs import HALF, floating_type, like_network
from lowrank_exp.network.shapes import copy_that_runs
from lowrank_exp.phases.phase import Phase
from lowrank_exp.replacing import note_, trial

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData


def make_phases(method: Mapping[str, Any]) -> dict[str, Phase]:
    """The phases of a method, in order; its configuration is resolved, and flat (`command_line.deltas.merge_recipes`).

    Raises:
        ValueError: a name that no phase has or may have, a phase named twice, or something else than a phase.
    """
    order = method["order"]
    for name in order:
        check_name(name)
        if name not in method["phases"]:
            raise ValueError(f"method.order names the phase {name!r}; method.phases has: {', '.join(method['phases'])}")
    if not order or len(set(order)) != len(order):
        raise ValueError(f"method.order must name at least one phase, each once, got {order}")
    configured = OmegaConf.create({"method": nest_recipes(method)}).method.phases  # with their full names, for errors
    phases = {name: instantiate(configured[name], _convert_="all") for name in order}
    for name, phase in phases.items():
        if not isinstance(phase, Phase):
            raise ValueError(
                f"method.phases.{name} is a {type(phase).__name__}, which is not a phase of lowrank_exp.phases"
            )
    return phases


@dataclass(frozen=True)
class Walked:
    """What a walk has come to.

    Attributes:
        example: the image that the network takes, `(1, ...)`.
        logits: what the initial network gives for it.
        last: the shapes of the network after the last phase.
        counting: those before phases that will ask how many images there are, by name.
    """

    example: Tensor
    logits: Any
    last: nn.Module
    counting: Mapping[str, nn.Module]


def walk(initial: nn.Module, phases: Mapping[str, Phase], examples: Iterable[Tensor], device: str) -> Walked:
    """Take every phase over the shapes of the network.

    Args:
        initial: the network that the first phase gets; it stays as it is.
        phases: by name, in order.
        examples: images, `(1, ...)`, of which the network is to take one; the first is tried first.
        device: where layers are tried on numbers.

    Raises:
        ValueError: what a phase would end in, with its name.
    """
    network, example, logits = copy_that_runs(initial, examples)
    if floating_type(initial) in HALF:
        _step_in_half_precision(initial, example, device, any(phase.trains for phase in phases.values()))
    note_(network, _try_layers(initial, example, device))
    before, counting = ["initial"], {}
    for name, phase in phases.items():
        if missing := [other for other in phase.looks_back if other not in before]:
            raise ValueError(f"phase {name} asks for the network of {missing[0]!r}; there is: {', '.join(before)}")
        before.append(name)
        if type(phase).check_steps is not Phase.check_steps:
            counting[name] = copy_network(network)
        with _named(name):
            phase.walk_(network, example)
    return Walked(example, logits, network, counting)


def check_against(walked: Walked, phases: Mapping[str, Phase], data: ImageData) -> None:
    """Raise ValueError unless the network knows the classes of the data, and these have what phases need of them."""
    logits = walked.logits
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < data.num_classes:
        output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the network gives {output} for one image, the data have {data.num_classes} classes: it must give "
            f"(1, classes) logits. Set model.num_classes={data.num_classes}"
        )
    for name, phase in phases.items():
        if phase.validates and not data.sizes["val"]:
            raise ValueError(
                f"phase {name}: {phase.validates} on validation images, and there are none: set data.validation to "
                "a fraction of the training images, or choose a method that does without"
            )
        if name in walked.counting:
            with _named(name):
                phase.check_steps(walked.counting[name], walked.example, data.sizes["train"])


@contextmanager
def _named(phase: str) -> Iterator[None]:
    """Within the block mistakes bear the name of the phase."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise type(error)(f"phase {phase}: {error}") from error


def examples_of(data: ImageData) -> Iterator[Tensor]:
    """One image of zeros; for networks that do not take it, the first of the training data."""
    yield torch.zeros(1, *data.input_shape)
    images, _ = next(iter(data.train_loader(2, seed=0, augment=False)))
    yield images[:1]


def _try_layers(initial: nn.Module, example: Tensor, device: str) -> dict[str, str]:
    """Layers that the phases must leave alone, found on numbers: the walk has none."""
    network = initial.to(device)
    try:
        return trial(network, example)
    finally:
        network.to("cpu")


def _step_in_half_precision(initial: nn.Module, example: Tensor, device: str, backward: bool) -> None:
    """Try a forward and a backward pass: not every operation of a network has them in half precision."""
    network, kind = copy_network(initial).to(device).train(), floating_type(initial)
    images = like_network(example.repeat(2, *[1] * (example.dim() - 1)), network)
    try:
        if (logits := network(images)).requires_grad and backward:
            logits.float().sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the network is {kind}, in which {device} cannot compute it ({error}): build it in float32, "
            "without .half(), and set training.precision=bf16 for speed"
        ) from error
