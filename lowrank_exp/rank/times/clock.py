"""Times of layers and networks on one runtime: measured where the store does not have them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lowrank_exp.checks import positive, whole
from lowrank_exp.decomposition import Decomposition, Rank
from lowrank_exp.machine.cores import machine
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.runtime import Runtime, runtime_named, time_layer, time_passes

VERSION = 1  # of what is measured and how; raised by hand
DENSE = "dense"
DENSE_TRIES = 3  # all plans are compared with it: it must not be one slow measurement
WHOLE = 10  # times as long as a layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Clock:
    """Measures milliseconds on one runtime, and keeps them by all that they depend on.

    Args:
        runtime: its name, or itself; see `lowrank_exp.runtime`.
        batch_size: images in one forward pass.
        times: where times are kept, so that nothing is measured twice; by default in memory.
        seconds: how long a layer is repeated; whole networks ten times as long.
        progress: show bars.

    Raises:
        ValueError: a runtime that is not known or not installed, a batch size or time that is not a positive number.
    """

    runtime: Runtime
    batch_size: int = 1
    times: TimeStore = field(default_factory=TimeStore)
    seconds: float = 0.05
    progress: bool = False

    @classmethod
    def of(cls, runtime: str | Runtime, **options: Any) -> "Clock":
        """That of a runtime which may be given by its name; options that are None are left at their defaults."""
        given = {name: value for name, value in options.items() if value is not None}
        return cls(runtime=runtime_named(runtime) if isinstance(runtime, str) else runtime, **given)

    def __post_init__(self) -> None:
        wrong = f"batch_size={self.batch_size!r} is not a number of images: at least 1"
        whole("batch_size", self.batch_size, message=wrong)
        wrong = f"seconds={self.seconds!r} is not a time to repeat a layer for, such as 0.05"
        positive("seconds", self.seconds, wrong)

    @property
    def conditions(self) -> dict[str, Any]:
        """What all its times depend on beside shapes; a time of other conditions is never taken."""
        return self.runtime.describe() | {
            "machine": machine(),
            "batch_size": self.batch_size,
            "seconds": self.seconds,
            "measured": VERSION,
        }

    def dense_ms(self, shape: LayerShape, device: torch.device) -> float:
        """Of the dense layer."""

        def measure(names: Sequence[str]) -> dict[str, float]:
            return {name: min(self._layer_ms(shape, device) for _ in range(DENSE_TRIES)) for name in names}

        return self.times.table(self._key(shape, device), [DENSE], measure)[DENSE]

    def rank_ms(
        self, shape: LayerShape, kind: Decomposition, ranks: Sequence[Rank], device: torch.device
    ) -> dict[Rank, float]:
        """Of the factors at these ranks, rising."""
        names = {json.dumps(rank): rank for rank in ranks}

        def measure(missing: Sequence[str]) -> dict[str, float]:
            ms = {name: self._layer_ms(shape, device, kind, names[name]) for name in missing}
            # Slower than a higher rank: by the kernels, or by what else the machine did. Asked once more.
            fastest = np.inf
            for name in reversed(missing):
                if ms[name] > fastest:
                    ms[name] = min(ms[name], self._layer_ms(shape, device, kind, names[name]))
                fastest = min(fastest, ms[name])
            return ms

        key = self._key(shape, device) | {"decomposition": kind.name, "options": kind.options()}
        found = self.times.table(key, list(names), measure)
        return {rank: found[name] for name, rank in names.items()}

    def network_ms(
        self, key: Mapping[str, Any], names: Sequence[str], build: Callable[[str], nn.Module], batch: Tensor
    ) -> dict[str, float]:
        """Of whole networks, which `build` makes by their names; `key` tells what they are made of."""

        def measure(missing: Sequence[str]) -> dict[str, float]:
            text = f"timing whole networks ({self.runtime.name})"
            bar = tqdm(missing, desc=text, leave=False, disable=not self.progress)
            return {name: self._whole_ms(build(name), batch) for name in bar}

        return self.times.table(self.conditions | dict(key), names, measure)

    def forget(self, key: Mapping[str, Any]) -> None:
        """Measure the networks under `key` anew when they are next asked for."""
        self.times.forget(self.conditions | dict(key))

    def _whole_ms(self, network: nn.Module, batch: Tensor) -> float:
        return time_passes(self.runtime.prepare_for_timing(network, batch), seconds=WHOLE * self.seconds).minimum_ms

    def _layer_ms(
        self, shape: LayerShape, device: torch.device, kind: Decomposition | None = None, rank: Rank | None = None
    ) -> float:
        made = shape.layer(device) if kind is None else kind.skeleton(shape.layer(), rank, device=device)
        shapes = [(self.batch_size * first, *others) for first, *others in shape.input_shapes]
        return time_layer(self.runtime, made, shapes, seconds=self.seconds)

    def _key(self, shape: LayerShape, device: torch.device) -> dict[str, Any]:
        return {**self.conditions, "layer": asdict(shape), "device": device.type}
