"""What a network costs as a whole, and how long it takes: as it is, or at its best in a runtime."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import network_cost
from lowrank_exp.network.modes import evaluating
from lowrank_exp.runtime.base import Prepared, Runtime, check_example, instruction_set, torch_threads
from lowrank_exp.runtime.eager import conditions_at, precision_of, synchronise
from lowrank_exp.runtime.names import runtime_named
from lowrank_exp.runtime.timing import Timing, time_passes

AS_IT_IS = "torch"  # the name of what times a network without a runtime


@dataclass(frozen=True)
class Measurement:
    """A whole network: MACs per image, weights, trainable parameters, and milliseconds of one forward pass.

    `timing`: the passes that `latency_ms` is the median of; `conditions`: what they were timed by.
    """

    macs: int
    weights: int
    parameters: int
    latency_ms: float | None
    timing: Timing | None = field(default=None, compare=False, repr=False)
    conditions: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


def measure(
    model: nn.Module,
    example_input: Tensor,
    *,
    seconds: float = 0.2,
    runtime: str | None = None,
    threads: int | None = None,
) -> Measurement:
    """MACs, weights, parameters and latency of `model` on `example_input`.

    Args:
        model: any network that takes one tensor.
        example_input: `(N, ...)`; MACs are those of one image, the latency that of all N.
        seconds: how long to repeat the forward pass; 0 leaves the latency out (None).
        runtime: what executes it: `eager`, `compile`, `onnxruntime`, `openvino`, or the import path of a `Runtime`; it
            gets a copy of the network with batch norms folded. None: torch, with the network as it is.
        threads: of one forward pass; None: as many as torch has.

    Warns where torch counts more MACs than these (inside attention, in linear maps called as functions), and of layers
    that the network calls but does not hold.

    Raises:
        ValueError: an example input that does not suit the network, see `network_cost`; a network on the meta device,
            unless `seconds` is 0; a runtime that is not known, not installed, or does not take the network.

    >>> measure(nn.Linear(4, 3), torch.zeros(1, 4), seconds=0)
    Measurement(macs=12, weights=12, parameters=15, latency_ms=None)
    """
    executes = None if runtime is None else runtime_named(runtime, threads=threads)
    cost = network_cost(model, example_input)
    cost.warn()
    counts = (cost.macs, cost.weights, sum(p.numel() for p in model.parameters() if p.requires_grad))
    if not seconds:
        return Measurement(*counts, None)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("a network on the meta device takes no time: leave the latency out, measure(..., seconds=0)")
    prepared = prepare(executes, model, example_input, threads)
    timing = time_passes(prepared, seconds=seconds)
    return Measurement(*counts, timing.median_ms, timing, prepared.conditions)


def prepare(runtime: Runtime | None, network: nn.Module, example: Tensor, threads: int | None = None) -> Prepared:
    """`network` prepared by a runtime; without one as it is, to be timed with so many threads of torch (None: all)."""
    return AsItIs(network, example, threads) if runtime is None else runtime.prepare(network, example)


def describe(runtime: Runtime | None, threads: int | None = None) -> dict[str, Any]:
    """What a runtime says of itself; without one, what is to be said of torch."""
    if runtime is not None:
        return runtime.describe()
    return {
        "name": AS_IT_IS,
        "version": torch.__version__,
        "threads": threads or torch.get_num_threads(),
        "precision": "float32",
        "instruction_set": instruction_set(),
        "memory_format": "contiguous",
        "winograd": "chosen by torch",
        "provider": "cpu",
    }


class AsItIs(Prepared):
    """A network itself, in evaluation mode and without gradients while it is timed; nothing is copied or folded."""

    def __init__(self, network: nn.Module, example: Tensor, threads: int | None = None) -> None:
        self.network, self.example = network, check_example(network, example)
        told = describe(None, threads)
        self.threads = told["threads"]
        self.conditions = told | precision_of(network) | conditions_at(self.example)

    def __call__(self, x: Tensor) -> Tensor:
        with self.held():
            return self.network(x)

    @contextmanager
    def held(self) -> Iterator[None]:
        with evaluating(self.network), torch_threads(self.threads):
            yield

    def run(self) -> None:
        """One forward pass on the example, within `held`."""
        self.network(self.example)
        synchronise(self.example)
