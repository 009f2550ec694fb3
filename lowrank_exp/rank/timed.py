"""Profiles with the time of every option on a runtime."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.files.results import digest
from lowrank_exp.network.cost import network_cost, one_image
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.multiples import restrict
from lowrank_exp.rank.offer import Offer
from lowrank_exp.rank.times.clock import DENSE, Clock
from lowrank_exp.rank.times.ladder import find_steps, ranks_to_time
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.rank.times.whole import Choices, TimedPlan, choose_at, copy_at, describe_choices, fit_whole
from lowrank_exp.runtime import Runtime

LEVELS = (0.75, 0.5, 0.3)  # of every layer's dense time: the networks that the model of the whole is fitted to


def with_times(
    layers: Mapping[str, LayerProfile],
    model: nn.Module,
    example_input: Tensor,
    runtime: str | Runtime | Clock = "eager",
    *,
    batch_size: int | None = None,
    times: TimeStore | None = None,
    seconds: float | None = None,
    progress: bool | None = None,
) -> dict[str, LayerProfile]:
    """The profiles with times: of every dense layer, and of every offer at the ranks where its time falls.

    Ranks are timed at multiples of 8 and a few below (`ranks_to_time`); a rank that takes no less time than a higher
    one is left out (`find_steps`), so ladders are short, and times rise along them. Times of single layers are scaled
    to those of whole networks (`fit_whole`); what belongs to no layer stands under "(time outside layers)".

    Args:
        layers: as `profile` gives them.
        model: the network of these profiles; it is not changed.
        example_input: an image for it, `(N, ...)`.
        runtime: its name, itself, or a `Clock`, which has the other options.
        batch_size: images in one forward pass; 1 by default.
        times: where times are kept, so that nothing is measured twice; None: in memory.
        seconds: how long each layer is repeated, 0.05 by default; whole networks ten times as long.
        progress: show bars.

    Raises:
        ValueError: a runtime that is not known or not installed, a model on the meta device, times that make no sense.
    """
    options = {"batch_size": batch_size, "times": times, "seconds": seconds, "progress": progress}
    clock = runtime if isinstance(runtime, Clock) else Clock.of(runtime, **options)
    image = one_image(model, example_input)
    if image.is_meta:
        raise ValueError("a network on the meta device takes no time: profile one with numbers, or leave runtime out")
    shapes, timed = _shapes(model, image, layers), {}
    text = f"timing layers ({clock.runtime.name})"
    for name, layer in tqdm(layers.items(), desc=text, leave=False, disable=not clock.progress):
        timed[name] = replace(layer, timed=clock.conditions)
        if name in shapes:
            timed[name] = _timed(timed[name], shapes[name], clock, image)
    plans: dict[str, Choices] = {DENSE: {}}
    plans |= {json.dumps(describe_choices(plan)): plan for plan in (choose_at(timed, level) for level in LEVELS)}
    plans.pop(json.dumps([]), None)
    key = {"network": digest(repr(model)), "layers": {name: asdict(shape) for name, shape in shapes.items()}}

    def fitted() -> dict[str, LayerProfile]:
        found = clock.network_ms(key, list(plans), lambda name: copy_at(model, plans[name]), batch_of(image, clock))
        return fit_whole(timed, found[DENSE], [TimedPlan(one, found[name]) for name, one in plans.items() if one])

    try:
        return fitted()
    except ValueError:  # whole networks that were timed while the machine was busy, now or in an earlier run
        clock.forget(key)
        return fitted()


def batch_of(image: Tensor, clock: Clock) -> Tensor:
    """As many of an image, `(1, ...)`, as a clock's batches have."""
    return image[:1].expand(clock.batch_size, *image.shape[1:]).contiguous()


def _shapes(model: nn.Module, image: Tensor, layers: Mapping[str, LayerProfile]) -> dict[str, LayerShape]:
    """Of every layer that the network calls."""
    modules, costs = dict(model.named_modules()), network_cost(model, image).layers
    return {
        name: LayerShape.of(modules[name], costs[name].input_shapes)
        for name in layers
        if name in costs and costs[name].input_shapes
    }


def _timed(layer: LayerProfile, shape: LayerShape, clock: Clock, image: Tensor) -> LayerProfile:
    dense = replace(layer.dense, latency=_nanoseconds(clock.dense_ms(shape, image.device)))
    offers = tuple(_timed_offer(one, shape, clock, image) for one in layer.alternatives if one.rungs)
    return replace(layer, dense=dense, offers=offers)


def _timed_offer(layer: LayerProfile, shape: LayerShape, clock: Clock, image: Tensor) -> Offer:
    """The layer's only offer, at the ranks where its time falls."""
    layer, ranks = replace(layer, timed=None), ranks_to_time(layer)
    offer, kind = restrict(layer, ranks), decomposition_named(layer.decomposition, **layer.options)
    by_rank = clock.rank_ms(shape, kind, ranks, image.device)
    latency = np.array([_nanoseconds(by_rank[rank]) for rank in ranks], dtype=np.int64)
    offer = replace(offer, costs=replace(offer.costs, latency=latency))
    kept = tuple(ranks[rung] for rung in find_steps(latency.tolist()))
    return restrict(replace(layer, offers=(offer,)), kept)


def _nanoseconds(ms: float) -> int:
    return max(1, round(1e6 * ms))
