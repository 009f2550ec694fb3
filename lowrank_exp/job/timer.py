"""Times of networks in a job: by which runtime, with how many threads and images, as its `latency` says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lowrank_exp.files.results import Result
from lowrank_exp.files.runtime_words import runtime_in_words
from lowrank_exp.machine.environment import latency_conditions
from lowrank_exp.runtime import Prepared, runtime_named, time_passes
from lowrank_exp.runtime.measurement import describe, prepare
from lowrank_exp.svd_form.profile import forms_of

FORMER = {"runtime": None, "threads": None}  # keys that jobs of earlier versions do not have, and what they did
UNTIMED: dict[str, Any] = {"latency_ms": None, "latency": [], "runtime": {}}


class Timer:
    """Times networks on batches of one or several sizes.

    Args:
        latency: of the configuration.
        device: where the networks lie.

    Raises:
        ValueError: a runtime that is not known, not installed, or does not compute on the device.
    """

    def __init__(self, latency: DictConfig, device: str) -> None:
        self.seconds, self.threads, self.device = latency.seconds, latency.threads, device
        self.batch_sizes = batch_sizes(latency)
        try:
            self.runtime = None if latency.runtime is None else runtime_named(latency.runtime, threads=self.threads)
            if self.runtime is not None and device != "cpu":
                self.runtime.prepare(nn.Linear(1, 1).to(device), torch.zeros(1, 1, device=device))
        except ValueError as error:
            raise ValueError(f"latency.runtime={latency.runtime}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """What the runtime says of itself."""
        return describe(self.runtime, self.threads)

    def __str__(self) -> str:
        sizes = " and ".join(map(str, self.batch_sizes))
        way = "the network as it is" if self.runtime is None else "at its best"
        return f"{runtime_in_words(self.describe())}, {way}, batch {sizes}, {self.seconds:g} s each"

    def conditions(self) -> dict[str, Any]:
        """What a time depends on beside the network, as plain values."""
        here = latency_conditions(self.device) | {"batch_size": self.batch_sizes, "runtime": self.describe()}
        return json.loads(json.dumps(here))

    def has_timed(self, result: Result, latency: Mapping[str, Any]) -> bool:
        """Whether the latencies of a result are those that would be measured now, with this `latency` configured."""
        if as_now(result.config["latency"]) != as_now(latency):
            return False
        now = latency_conditions(self.device)
        then = {name: result.environment.get(name) for name in now}
        # Results of versions before there were runtimes do not tell theirs.
        same_runtime = all(phase.runtime in ({}, self.describe()) for phase in result.phases)
        return not self.seconds or (then == now and same_runtime)

    def time(self, network: nn.Module, example: Tensor) -> dict[str, Any]:
        """`latency_ms`, `latency` and `runtime` of a network, as they stand in the result of its phase.

        Where the runtime does not take the network, the reason stands in the place of its times.

        Args:
            network: on the device.
            example: one image, `(1, ...)`.
        """

        def prepare_for(images: Tensor) -> Prepared:
            try:
                return prepare(self.runtime, network, images, self.threads)
            except ValueError as error:
                if forms_of(network):
                    raise ValueError("layers in SVD form are for training, no runtime takes them") from error
                raise

        return self.time_by(prepare_for, example)

    def time_by(self, prepare_for: Callable[[Tensor], Prepared], example: Tensor) -> dict[str, Any]:
        """The same of what `prepare_for` prepares for a batch."""
        if not self.seconds:
            return dict(UNTIMED)
        told, sizes = self.describe(), []
        for size in self.batch_sizes:
            try:
                prepared = prepare_for(example.repeat(size, *[1] * (example.dim() - 1)))
            except ValueError as error:
                sizes.append({"batch_size": size, "error": str(error)})
                continue
            timing = time_passes(prepared, seconds=self.seconds)
            own = {name: value for name, value in prepared.conditions.items() if told.get(name, value) != value}
            sizes.append({"batch_size": size} | asdict(timing) | own)
        return {"latency_ms": sizes[0].get("median_ms"), "latency": sizes, "runtime": told}


def as_now(latency: Mapping[str, Any]) -> dict[str, Any]:
    """The `latency` of a configuration, of an earlier version too, as it is written now.

    >>> as_now({"batch_size": 1, "seconds": 0.2})
    {'runtime': None, 'threads': None, 'batch_size': [1], 'seconds': 0.2}
    """
    return {**FORMER, **latency, "batch_size": batch_sizes(latency)}


def batch_sizes(latency: Mapping[str, Any]) -> list[int]:
    """The batch sizes that are timed, those of `latency_ms` first.

    >>> batch_sizes({"batch_size": 1}), batch_sizes({"batch_size": [8, 1]})
    ([1], [8, 1])
    """
    sizes = latency["batch_size"]
    return [sizes] if isinstance(sizes, int) else list(sizes)


def untimed(latency: list[dict[str, Any]]) -> list[str]:
    """A sentence for every batch size whose time could not be measured."""
    return [f"no latency at batch {one['batch_size']}: {one['error']}" for one in latency if "error" in one]
