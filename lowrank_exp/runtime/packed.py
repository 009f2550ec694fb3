"""Convolutions as frozen graphs of torch.compile call them, without compiling anything."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Prepared, check_shape, torch_threads

PACKED = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}  # kinds, and the layout of their inputs


def chain_of(layer: nn.Module) -> list[nn.Module] | None:
    """The convolutions that `layer` consists of, if they can be packed; None: there is something else in it."""
    chain = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    plain = all(type(one) in PACKED and one.padding_mode == "zeros" for one in chain)
    return chain if chain and plain and not any(isinstance(one.padding, str) for one in chain) else None


@dataclass(frozen=True, eq=False)
class PreparedPacked(Prepared):
    """A chain of convolutions with their weights packed for oneDNN, called one after the other.

    Freezing packs weights in the same way and calls the same function of torch; what a graph adds to it (Python around
    a whole graph, once per pass) belongs to no layer.
    """

    chain: Sequence[nn.Module]
    example: Tensor
    threads: int
    conditions: dict[str, Any]
    calls: list[Callable[[Tensor], Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        x = self.example.to(memory_format=PACKED[type(self.chain[0])])
        object.__setattr__(self, "example", x)
        calls = []
        with torch.no_grad():
            for layer in self.chain:
                calls.append(_packed(layer, x))
                x = calls[-1](x)
        object.__setattr__(self, "calls", calls)

    def __call__(self, x: Tensor) -> Tensor:
        with self.held():
            return self._pass(check_shape(x, self.example, "compile"))

    @contextmanager
    def held(self) -> Iterator[None]:
        with torch_threads(self.threads), torch.no_grad():
            yield

    def run(self) -> None:
        with self.held():
            self._pass(self.example)

    def _pass(self, x: Tensor) -> Tensor:
        for call in self.calls:
            x = call(x)
        return x


def _packed(layer: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    how = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
    weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *how, list(x.shape))
    convolve, bias = torch.ops.mkldnn._convolution_pointwise.default, layer.bias
    return lambda x: convolve(x, weight, bias, *how, "none", [], "")
