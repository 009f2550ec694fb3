"""Eager: torch's own operations one by one, as a network at its best runs without being compiled."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of
from lowrank_exp.network.inputs import floating_type
from lowrank_exp.network.modes import evaluating
from lowrank_exp.runtime.base import Prepared, Runtime, check_example, instruction_set, torch_threads
from lowrank_exp.runtime.folded import folded
from lowrank_exp.runtime.timing import time_interleaved

AUTO = "auto"
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions of an input
TRIAL_SECONDS = 0.05  # for each memory format


@dataclass(frozen=True, kw_only=True)
class Eager(Runtime):
    """torch in inference mode, with batch norms folded and in the faster memory format.

    Args:
        channels_last: whether images and weights lie as (N, H, W, C); "auto": both are tried, the faster one stays.
    """

    channels_last: bool | str = AUTO

    name: ClassVar[str] = "eager"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(
            "channels_last",
            self.channels_last,
            (True, False, AUTO),
            f"channels_last={self.channels_last!r}: allowed are true, false and 'auto' (where it is faster)",
        )

    def describe(self) -> dict[str, Any]:
        return describe_torch(self, {True: "channels_last", False: "contiguous"}.get(self.channels_last, AUTO))

    def prepare(self, network: nn.Module, example: Tensor) -> "PreparedEager":
        x = check_example(network, example)
        network = folded(network, x)
        conditions = self.describe() | conditions_at(x) | precision_of(network)
        plain = PreparedEager(network, x, self.thread_count, conditions | {"memory_format": "contiguous"})
        if self.channels_last is False or not _has_channels_last(network, x):
            return plain
        last = _in_channels_last(plain)
        if self.channels_last is True and last is None:
            raise ValueError(
                "channels_last is true, but the network's code asks for the plain memory format, as x.view(len(x), -1) "
                "behind a convolution does: write x.flatten(1), or leave it at 'auto'"
            )
        if last is None or self.channels_last is True:
            return last or plain
        times = time_interleaved({"plain": plain, "last": last}, seconds=TRIAL_SECONDS)
        return last if times["last"].minimum_ms < times["plain"].minimum_ms else plain


@dataclass(frozen=True, eq=False)
class PreparedEager(Prepared):
    """A network in inference mode."""

    network: nn.Module
    example: Tensor
    threads: int
    conditions: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.detach().to(self.example.device, self.example.dtype)
        if self.conditions["memory_format"] == "channels_last":
            x = x.contiguous(memory_format=CHANNELS_LAST[x.dim()])
        with evaluating(self.network), torch_threads(self.threads):
            return self.network(x)

    @contextmanager
    def held(self) -> Iterator[None]:
        with evaluating(self.network), torch_threads(self.threads), torch.inference_mode():
            yield

    def run(self) -> None:
        with torch_threads(self.threads), torch.inference_mode():
            self.network(self.example)
            synchronise(self.example)


def _has_channels_last(network: nn.Module, x: Tensor) -> bool:
    kind = {4: (nn.Conv2d, nn.ConvTranspose2d), 5: (nn.Conv3d, nn.ConvTranspose3d)}.get(x.dim(), ())
    return any(isinstance(module, kind) for module in network.modules())


def _in_channels_last(plain: PreparedEager) -> PreparedEager | None:
    """The same network in the other memory format, its weights too; None where its code asks for the plain one."""
    order = CHANNELS_LAST[plain.example.dim()]
    network = copy.deepcopy(plain.network).to(memory_format=order)
    example = plain.example.contiguous(memory_format=order)
    last = dataclasses.replace(
        plain, network=network, example=example, conditions=plain.conditions | {"memory_format": "channels_last"}
    )
    try:
        last(example)
    except RuntimeError:  # of x.view(len(x), -1), say
        return None
    return last


def describe_torch(runtime: Runtime, memory_format: str) -> dict[str, Any]:
    """What torch's own runtimes say of themselves."""
    return {
        "name": runtime.name,
        "version": torch.__version__,
        "threads": runtime.thread_count,
        "precision": "float32",
        "instruction_set": instruction_set(),
        "memory_format": memory_format,
        "winograd": "chosen by oneDNN",
        "provider": "cpu",
    }


def precision_of(network: nn.Module) -> dict[str, str]:
    return {"precision": str(floating_type(network)).removeprefix("torch.")}


def conditions_at(x: Tensor) -> dict[str, Any]:
    """The device that torch computes `x` on, by name, who chooses Winograd there, and the number of images."""
    name = torch.cuda.get_device_name(x.device) if x.is_cuda else x.device.type
    return {"provider": name, "batch_size": len(x)} | ({"winograd": "chosen by cuDNN"} if x.is_cuda else {})


def synchronise(x: Tensor) -> None:
    """Wait for what the device of `x` still computes."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
