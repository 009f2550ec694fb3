"""What a runtime is: it prepares a network for an example, and says who it is."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.network.cost import check_network, check_shapes
from lowrank_exp.network.inputs import like_network


@dataclass(frozen=True)
class Kernel:
    """One kernel that a runtime calls in a forward pass.

    Attributes:
        name: of the node in the runtime's graph.
        op: the operation, such as Conv.
        ms: milliseconds.
        implementation: which code computed it, such as brgconv_avx512_f32; None where the runtime does not tell.
    """

    name: str
    op: str
    ms: float
    implementation: str | None = None


class Prepared(ABC):
    """A network that a runtime has made ready for batches of the example's size.

    Attributes:
        conditions: what its runtime says of itself, what was decided for this network (`memory_format`), `batch_size`.
    """

    conditions: dict[str, Any]

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The network's outputs for `x` of the example's shape, where the example lay; the caller's to keep.

        Raises:
            ValueError: another shape than the example's. ONNX Runtime and eager take any number of images.
        """

    @abstractmethod
    def run(self) -> None:
        """One forward pass on the example, inputs bound, nothing copied: what is timed. Returns when it is done."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """What many calls of `run` share, so that it does not count: settings of the process, such as threads."""
        yield

    def kernel_times(self, passes: int) -> list[Kernel] | None:
        """The kernels in the order in which they run, each with the mean of its faster half of `passes`; None where the
        runtime does not tell.

        Their sum is less than a forward pass, and each is slowed down by being timed: for shares, not for totals.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Runtime(ABC):
    """What executes a network. One of your own is a frozen dataclass that has a `name` and these methods.

    Args:
        threads: of one forward pass; None: as many as torch has (`torch.get_num_threads()`).
    """

    threads: int | None = None

    name: ClassVar[str]
    extra: ClassVar[str | None] = None  # of this package, which brings the package of the same name

    def __post_init__(self) -> None:
        if self.threads is not None:
            whole("threads", self.threads)

    @abstractmethod
    def prepare(self, network: nn.Module, example: Tensor) -> Prepared:
        """`network` ready to be called on batches like `example` `(N, ...)`: a copy, in evaluation mode, with its batch
        norms folded into the convolutions before them. `network` itself is not changed.

        Raises:
            ValueError: a network that this runtime cannot take; the message says why.
        """

    def prepare_for_timing(self, network: nn.Module, example: Tensor) -> Prepared:
        """What `prepare` gives, or what takes as long, sooner: for options that are timed by the hundred."""
        return self.prepare(network, example)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a time depends on, plain values: `name`, `version`, `threads`, `precision`, `instruction_set`,
        `memory_format`, `winograd`, `provider`."""

    @classmethod
    def missing(cls) -> str | None:
        """What it lacks here and how to get it; None: it can be used."""
        if cls.extra is None or importlib.util.find_spec(cls.extra) is not None:
            return None
        return f"the package {cls.extra} is not installed: pip install 'lowrank_exp[{cls.extra}]'"

    @property
    def thread_count(self) -> int:
        return torch.get_num_threads() if self.threads is None else self.threads


def faster_half(times: Sequence[float]) -> float:
    """The mean of the faster half: what else a machine does makes passes slower, never faster.

    >>> faster_half([9.0, 1.0, 2.0])
    1.5
    """
    return fmean(sorted(times)[: (len(times) + 1) // 2])


def check_example(network: nn.Module, example: Tensor) -> Tensor:
    """`example` as `network` takes it: on its device, in its floating-point type, contiguous.

    Raises:
        ValueError: not a network, one on the meta device or with lazy layers, or an example without images.
    """
    check_network(network)
    check_shapes(network)
    if not isinstance(example, Tensor) or example.dim() < 1 or not example.numel():
        raise ValueError(f"example must be a tensor with at least one image, got {example!r:.80}")
    if example.is_meta or any(p.is_meta for p in network.parameters()):
        raise ValueError("nothing is computed on the meta device: give the network and the example numbers")
    return like_network(example.detach(), network).contiguous()


def check_shape(x: Tensor, example: Tensor, name: str) -> Tensor:
    """`x`, where `example` lies, if it has its shape.

    Raises:
        ValueError: it has another one.
    """
    if x.shape != example.shape:
        raise ValueError(
            f"{name} has prepared this network for inputs of {tuple(example.shape)}, got {tuple(x.shape)}: prepare it "
            "with an example of that shape"
        )
    return x.detach().to(example.device, example.dtype)


def instruction_set() -> str:
    """The vector instructions that torch finds on this processor.

    >>> instruction_set().isupper()
    True
    """
    return torch.backends.cpu.get_cpu_capability()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads inside, and as before afterwards. Costs nothing where it does already."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
