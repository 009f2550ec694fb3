"""What a format of exported files is."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn


class Format(ABC):
    """How a network is written to a file of one kind, and what can be read back from it.

    `name` is what `export(format=)` takes, `suffix` that of the file, `beside` those of the files that belong to it,
    `extra` the extra of this package that brings the package of the same name, where one is needed. `runtime` is the
    name of the runtime that executes its files as they are; None where reading a file may run code that is in it.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    runtime: ClassVar[str | None] = None

    def check_installed(self) -> None:
        """Nothing, if what it needs is installed.

        Raises:
            ValueError: it is not; with the extra that brings it.
        """
        if self.extra is not None and importlib.util.find_spec(self.extra) is None:
            raise ValueError(
                f"files of format {self.name} need the package {self.extra}: pip install 'lowrank_exp[{self.extra}]'"
            )

    @abstractmethod
    def write(self, network: nn.Module, example: Tensor, metadata: Mapping[str, str], path: Path) -> None:
        """Write `network`, in evaluation mode, to `path`; it takes batches of any size.

        Further files, where the format has some, go beside it.

        Args:
            network: its batch norms folded, on the CPU.
            example: two images.
            metadata: texts by name.
            path: in a folder of its own, under its final name.
        """

    @abstractmethod
    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """The network in a file, as a function of a batch."""

    @abstractmethod
    def metadata(self, path: Path) -> dict[str, str]:
        """The texts in a file."""

    def inputs(self, path: Path) -> list[tuple[int | None, ...]]:
        """The shapes of the inputs of a file that a `runtime` executes; None for what may have any size."""
        raise NotImplementedError

    def opset(self, path: Path) -> int | None:
        """The version of the operators in a file, where the format counts them."""
        return None
