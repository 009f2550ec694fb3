"""Profiles with the time of every option on a runtime."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lowrank_exp.checks import positive, whole
from lowrank_exp.decomposition import Decomposition, Rank, decomposition_named
from lowrank_exp.files.results import digest
from lowrank_exp.machine.cores import machine
from lowrank_exp.network.cost import network_cost, one_image
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.multiples import restrict
from lowrank_exp.rank.offer import Offer
from lowrank_exp.rank.times.ladder import find_steps, ranks_to_time
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.rank.times.whole import Choices, TimedPlan, choose_at, copy_at, describe_choices, fit_whole
from lowrank_exp.runtime import Runtime, runtime_named, time_layer, time_passes

VERSION = 1  # of what is measured and how; raised by hand
LEVELS = (0.75, 0.5, 0.3)  # of every layer's dense time: the networks that the model of the whole is fitted to
DENSE = "dense"
DENSE_TRIES = 3  # what is not chosen against anything must not be one slow measurement


def with_times(
    layers: Mapping[str, LayerProfile],
    model: nn.Module,
    example_input: Tensor,
    runtime: str | Runtime = "eager",
    *,
    batch_size: int = 1,
    times: TimeStore | None = None,
    seconds: float = 0.05,
    progress: bool = False,
) -> dict[str, LayerProfile]:
    """The profiles with times: of every dense layer, and of every offer at the ranks where its time falls.

    Ranks are timed at multiples of 8 and a few below (`ranks_to_time`); a rank that takes no less time than a higher
    one is left out (`find_steps`), so ladders are short, and times rise along them. Times of single layers are scaled
    to those of whole networks (`fit_whole`); what belongs to no layer stands under "(time outside layers)".

    Args:
        layers: as `profile` gives them.
        model: the network of these profiles; it is not changed.
        example_input: an image for it, `(N, ...)`.
        runtime: its name, or itself; see `lowrank_exp.runtime`.
        batch_size: images in one forward pass.
        times: where times are kept, so that nothing is measured twice; None: nowhere.
        seconds: how long each is repeated; whole networks ten times as long.
        progress: show a bar.

    Raises:
        ValueError: a runtime that is not known or not installed, a model on the meta device, times that make no sense.
    """
    whole("batch_size", batch_size, message=f"batch_size={batch_size!r} is not a number of images: at least 1")
    positive("seconds", seconds, f"seconds={seconds!r} is not a time to repeat a layer for, such as 0.05")
    runtime = runtime_named(runtime) if isinstance(runtime, str) else runtime
    image = one_image(model, example_input)
    if image.is_meta:
        raise ValueError("a network on the meta device takes no time: profile one with numbers, or leave runtime out")
    conditions = runtime.describe() | {"machine": machine(), "batch_size": batch_size, "measured": VERSION}
    clock = _Clock(runtime, conditions, times or TimeStore(), seconds, image.device)
    shapes = _shapes(model, image, layers)
    timed = {}
    for name, layer in tqdm(layers.items(), desc=f"timing layers ({runtime.name})", leave=False, disable=not progress):
        timed[name] = _timed(layer, shapes[name], clock) if name in shapes else replace(layer, timed=conditions)
    batch = image.expand(batch_size, *image.shape[1:]).contiguous()
    dense_ms, plans = clock.whole_networks(model, batch, timed, shapes, progress)
    return fit_whole(timed, dense_ms, plans)


def _shapes(model: nn.Module, image: Tensor, layers: Mapping[str, LayerProfile]) -> dict[str, LayerShape]:
    """Of every layer that the network calls."""
    modules, costs = dict(model.named_modules()), network_cost(model, image).layers
    return {
        name: LayerShape.of(modules[name], costs[name].input_shapes)
        for name in layers
        if name in costs and costs[name].input_shapes
    }


def _timed(layer: LayerProfile, shape: LayerShape, clock: "_Clock") -> LayerProfile:
    dense = replace(layer.dense, latency=_nanoseconds(clock.dense_ms(shape)))
    offers = tuple(_timed_offer(one, shape, clock) for one in layer.alternatives if one.rungs)
    return replace(layer, dense=dense, offers=offers, timed=clock.conditions)


def _timed_offer(layer: LayerProfile, shape: LayerShape, clock: "_Clock") -> Offer:
    """The layer's only offer, at the ranks where its time falls."""
    ranks = ranks_to_time(layer)
    offer = restrict(layer, ranks)
    by_rank = clock.rank_ms(shape, offer, ranks)
    latency = np.array([_nanoseconds(by_rank[rank]) for rank in ranks], dtype=np.int64)
    offer = replace(offer, costs=replace(offer.costs, latency=latency))
    kept = tuple(ranks[rung] for rung in find_steps(latency.tolist()))
    return restrict(replace(layer, offers=(offer,)), kept)


class _Clock:
    """Measures on one runtime what is not in the store yet."""

    def __init__(
        self, runtime: Runtime, conditions: Mapping[str, Any], times: TimeStore, seconds: float, device: torch.device
    ) -> None:
        self.runtime, self.conditions, self.times = runtime, conditions, times
        self.seconds, self.device = seconds, device
        self.batch_size = conditions["batch_size"]

    def dense_ms(self, shape: LayerShape) -> float:
        """Of the dense layer."""

        def measure(names: list[str]) -> dict[str, float]:
            return {name: min(self._layer_ms(shape) for _ in range(DENSE_TRIES)) for name in names}

        return self.times.table(self._key(shape), [DENSE], measure)[DENSE]

    def rank_ms(self, shape: LayerShape, offer: Offer, ranks: Sequence[Rank]) -> dict[Rank, float]:
        """Of the factors at these ranks."""
        kind, names = decomposition_named(offer.decomposition, **offer.options), {_told(rank): rank for rank in ranks}

        def measure(missing: list[str]) -> dict[str, float]:
            ms = {name: self._layer_ms(shape, kind, names[name]) for name in missing}
            # Slower than a higher rank: by the kernels, or by what else the machine did. Asked once more.
            fastest = np.inf
            for name in reversed(missing):
                if ms[name] > fastest:
                    ms[name] = min(ms[name], self._layer_ms(shape, kind, names[name]))
                fastest = min(fastest, ms[name])
            return ms

        key = self._key(shape) | {"decomposition": offer.decomposition, "options": offer.options}
        found = self.times.table(key, names, measure)
        return {rank: found[name] for name, rank in names.items()}

    def whole_networks(
        self,
        model: nn.Module,
        batch: Tensor,
        layers: Mapping[str, LayerProfile],
        shapes: Mapping[str, LayerShape],
        progress: bool,
    ) -> tuple[float, list[TimedPlan]]:
        """Milliseconds of the dense network, and of it at a few plans."""
        plans = {json.dumps(describe_choices(plan)): plan for plan in (choose_at(layers, level) for level in LEVELS)}
        plans.pop(json.dumps([]), None)
        wanted: dict[str, Choices] = {DENSE: {}, **plans}

        def measure(missing: list[str]) -> dict[str, float]:
            bar = tqdm(missing, desc=f"timing whole networks ({self.runtime.name})", leave=False, disable=not progress)
            return {name: self.network_ms(copy_at(model, wanted[name]), batch) for name in bar}

        key = self.conditions | {
            "network": digest(repr(model)),
            "layers": {name: asdict(shape) for name, shape in shapes.items()},
        }
        found = self.times.table(key, wanted, measure)
        return found[DENSE], [TimedPlan(plan, found[name]) for name, plan in plans.items()]

    def network_ms(self, network: nn.Module, batch: Tensor) -> float:
        """Of a whole network."""
        return time_passes(self.runtime.prepare_for_timing(network, batch), seconds=10 * self.seconds).minimum_ms

    def _layer_ms(self, shape: LayerShape, kind: Decomposition | None = None, rank: Rank | None = None) -> float:
        layer = shape.layer(self.device if kind is None else "meta")
        made = layer if kind is None else kind.skeleton(layer, rank, device=self.device)
        shapes = [(self.batch_size * first, *others) for first, *others in shape.input_shapes]
        return time_layer(self.runtime, made, shapes, seconds=self.seconds)

    def _key(self, shape: LayerShape) -> dict[str, Any]:
        return {**self.conditions, "layer": asdict(shape)}


def _told(rank: Rank) -> str:
    return json.dumps(rank)


def _nanoseconds(ms: float) -> int:
    return max(1, round(1e6 * ms))
