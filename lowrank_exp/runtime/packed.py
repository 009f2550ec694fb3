"""Layers as frozen graphs of torch.compile call them, without compiling anything."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Prepared, check_shape, torch_threads

# Kinds, and the layout of their inputs.
PACKED = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d, nn.Linear: torch.contiguous_format}


def chain_of(layer: nn.Module) -> list[nn.Module] | None:
    """The convolutions and linear layers that `layer` consists of, if all can be packed; else None."""
    chain = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    return chain if chain and all(map(_is_plain, chain)) else None


def _is_plain(layer: Any) -> bool:
    if type(layer) not in PACKED:
        return False
    return isinstance(layer, nn.Linear) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))


@dataclass(frozen=True, eq=False)
class PreparedPacked(Prepared):
    """A chain of convolutions with their weights packed for oneDNN, called one after the other; or of linear layers.

    Freezing packs weights in the same way and calls the same function of torch; what a graph adds to it (Python around
    a whole graph, once per pass) belongs to no layer. Linear layers are called as they are.
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
    if isinstance(layer, nn.Linear):
        return layer
    how = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
    weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *how, list(x.shape))
    convolve, bias = torch.ops.mkldnn._convolution_pointwise.default, layer.bias
    return lambda x: convolve(x, weight, bias, *how, "none", [], "")
