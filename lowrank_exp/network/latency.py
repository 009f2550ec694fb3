"""Measured time of one forward pass."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.checks import positive
from lowrank_exp.network.inputs import like_network
from lowrank_exp.network.modes import evaluating


def latency_ms(model: nn.Module, example_input: Tensor, *, seconds: float = 0.2) -> float:
    """Median milliseconds of one forward pass of `model` on `example_input` `(N, ...)`, after a warm-up.

    In evaluation mode, with the number of threads torch has now, where the model's parameters lie. Repeats for about
    `seconds`; accelerators are synchronised by the timer.

    Raises:
        ValueError: the model lies on the meta device, where nothing is computed; there is no image, or no time.
    """
    allowed = "but a measurement takes a finite number above 0, such as 0.2"
    positive("seconds", seconds, f"seconds={seconds!r}, {allowed}")
    if not example_input.numel():
        raise ValueError("example_input holds no image: give it a first dimension of 1 or more")
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.is_meta:
        raise ValueError("a network on the meta device takes no time: leave the latency out, measure(..., seconds=0)")
    x = like_network(example_input.detach(), model)
    with evaluating(model):
        timer = _timer()("model(x)", globals={"model": model, "x": x}, num_threads=torch.get_num_threads())
        timer.timeit(1)
        return timer.blocked_autorange(min_run_time=seconds).median * 1e3


def _timer() -> Any:
    """torch's timer. It can build C++ snippets, which we have none of, and complains of half-installed compilers."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer
