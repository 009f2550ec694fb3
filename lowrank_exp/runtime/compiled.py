"""torch.compile: a network as one graph with its weights frozen into it."""

import logging
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Prepared, Runtime, check_example, check_shape, torch_threads
from lowrank_exp.runtime.eager import conditions_at, describe_torch, precision_of, synchronise
from lowrank_exp.runtime.folded import folded
from lowrank_exp.runtime.packed import PreparedPacked, chain_of


@dataclass(frozen=True, kw_only=True)
class Compiled(Runtime):
    """`torch.compile` of the whole network for the example's shape, with `freezing`: constants are folded, weights
    packed and layouts chosen in advance. Takes seconds per network."""

    name: ClassVar[str] = "compile"

    @classmethod
    def missing(cls) -> str | None:
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler.partition(" ")[0]):
            return None
        return f"torch.compile needs a C++ compiler, and there is no {compiler}: install it, or name another one by CXX"

    def describe(self) -> dict[str, Any]:
        return describe_torch(self, "chosen by inductor") | {"freezing": True}

    def prepare(self, network: nn.Module, example: Tensor) -> "PreparedCompiled":
        x = check_example(network, example)
        network = folded(network, x)
        decided = conditions_at(x) | precision_of(network)
        with _quiet_extensions():
            call = torch.compile(_own_code(network), fullgraph=True, dynamic=False, options={"freezing": True})
            prepared = PreparedCompiled(call, x, self.thread_count, self.describe() | decided)
            try:
                prepared.run()
            except Exception as error:  # whatever the compiler raises
                raise ValueError(
                    f"torch.compile does not take the network ({type(error).__name__}: "
                    f"{str(error).strip().partition(chr(10))[0]}): it needs a C++ compiler with Python's headers, on "
                    "GPUs Triton as well, and code that is one graph. The runtime eager takes every network"
                ) from error
        return prepared

    def prepare_for_timing(self, network: nn.Module, example: Tensor) -> Prepared:
        x = check_example(network, example)
        if (chain := chain_of(network)) is None or x.device.type != "cpu":
            return self.prepare(network, example)
        return PreparedPacked(chain, x, self.thread_count, self.describe() | {"batch_size": len(x)})


@dataclass(frozen=True, eq=False)
class PreparedCompiled(Prepared):
    """A compiled function, which holds the network."""

    call: Callable[[Tensor], Tensor]
    example: Tensor
    threads: int
    conditions: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        x = check_shape(x, self.example, "compile").contiguous()
        with torch_threads(self.threads), torch.no_grad():
            return self.call(x)

    @contextmanager
    def held(self) -> Iterator[None]:
        with torch_threads(self.threads), torch.no_grad():
            yield

    def run(self) -> None:
        with torch_threads(self.threads), torch.no_grad():
            self.call(self.example)
            synchronise(self.example)


def _own_code(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function that calls `network`, with code of its own: torch keeps what it compiled by code, eight at most, and
    goes through all of them in every call."""

    def call(x: Tensor) -> Tensor:
        return network(x)

    return types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


@contextmanager
def _quiet_extensions() -> Iterator[None]:
    """torch complains of half-installed compilers for GPUs when it first looks for one."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
