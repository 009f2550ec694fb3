"""The time of one layer, or of the factors in its place, as it will be inside a network."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Kernel, Prepared, Runtime
from lowrank_exp.runtime.timing import LEAST, time_passes

MOST = 200  # passes: more of a tiny layer tell nothing new, and every kernel of every pass is written down
POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class InContext(nn.Module):
    """A layer between two poolings of one pixel each, with a ReLU behind it, as it might stand in a network.

    A runtime with a layout of its own (blocks of channels) changes to it before the first pooling and back behind the
    second; inside a network it changes there no more often than inside this. What stands between the poolings is the
    layer, with the changes of layout that it brings about itself.
    """

    def __init__(self, layer: nn.Module, axes: int) -> None:
        super().__init__()
        self.before, self.layer, self.relu, self.after = POOLS[axes](1), layer, nn.ReLU(), POOLS[axes](1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.relu(self.layer(self.before(x))))


def time_layer(
    runtime: Runtime, layer: nn.Module, input_shapes: Sequence[tuple[int, ...]], *, seconds: float = 0.05
) -> float:
    """Milliseconds that `layer` takes for one input of each of `input_shapes`, together.

    Where the runtime tells the time of every kernel, that of the kernels between two poolings; else the time of the
    layer alone. What others do on the machine makes single passes slower, never faster: so the faster passes count.

    Args:
        runtime: what executes it.
        layer: convolutions, linear layers, or a chain of them; its weights do not matter.
        input_shapes: `(N, C, ...)`, with the batch size that is asked for.
        seconds: how long each is repeated.
    """
    return sum(_time_at(runtime, layer, shape, seconds) for shape in input_shapes)


def _time_at(runtime: Runtime, layer: nn.Module, shape: tuple[int, ...], seconds: float) -> float:
    weight = next(layer.parameters())
    x, axes = torch.randn(shape, device=weight.device).to(weight.dtype), len(shape) - 2
    if axes in POOLS:
        prepared = runtime.prepare_for_timing(InContext(layer, axes).eval(), x)
        if (kernels := prepared.kernel_times(_passes_in(prepared, seconds))) is not None:
            return sum(kernel.ms for kernel in _between_poolings(kernels))
    return time_passes(runtime.prepare_for_timing(layer.eval(), x), seconds=seconds).minimum_ms


def _passes_in(prepared: Prepared, seconds: float) -> int:
    prepared.run()
    start = time.perf_counter()
    prepared.run()
    return max(LEAST, min(MOST, round(seconds / (time.perf_counter() - start))))


def _between_poolings(kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    pools = [place for place, kernel in enumerate(kernels) if "pool" in kernel.op.lower()]
    if len(pools) != 2:
        raise RuntimeError(f"two poolings were to be seen among the kernels {[kernel.op for kernel in kernels]}")
    return kernels[pools[0] + 1 : pools[1]]
