"""Edits as data: plain records of what was done to a network, in order; they travel as `model.lowrank_edits`."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank_exp.decomposition import Rank


@dataclass(frozen=True)
class Factorize:
    """A layer was replaced by the factors of a decomposition at a rank."""

    layer: str
    decomposition: str
    rank: Rank
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.rank, list):
            object.__setattr__(self, "rank", tuple(self.rank))


@dataclass(frozen=True)
class Bias:
    """A layer without bias got one, of zeros at first; fits to responses need it."""

    layer: str


@dataclass(frozen=True)
class ToSVD:
    """A layer was replaced by its SVD form, of a decomposition at a rank."""

    layer: str
    decomposition: str
    rank: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KeepChannels:
    """A layer kept these of its output and input channels, and lost the others; None: all of them.

    A grouped convolution lost as many of every group, a depthwise one whole groups.
    """

    layer: str
    out: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for side in ("out", "inputs"):
            if isinstance(getattr(self, side), list):
                object.__setattr__(self, side, tuple(getattr(self, side)))


Edit = Factorize | Bias | ToSVD | KeepChannels
EDITS = {kind.__name__: kind for kind in (Factorize, Bias, ToSVD, KeepChannels)}  # a file names an edit by these names


def edits_of(model: nn.Module) -> list[Edit]:
    """What was done to `model`, in order."""
    return list(model.__dict__.get("lowrank_edits", ()))


def remember(model: nn.Module, edit: Edit) -> None:
    """Add to what was done to `model`."""
    model.lowrank_edits = [*edits_of(model), edit]


def forget(model: nn.Module, edits: list[Edit]) -> None:
    """Take back what is no longer so."""
    model.lowrank_edits = [edit for edit in edits_of(model) if edit not in edits]
