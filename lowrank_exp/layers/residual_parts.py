"""What stochastic depth asks of a residual block: which of its parts are needed to run it without its branch."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn


class ResidualParts(NamedTuple):
    """Parts of a block that computes act(f(x) + shortcut(x)), whose branch f ends in a normalization.

    Attributes:
        shortcut: None: the identity.
        norm: the normalization that ends the branch.
        activation: act; None: a ReLU without a module.
    """

    shortcut: nn.Module | None
    norm: nn.Module
    activation: nn.Module | None = None


@runtime_checkable
class Residual(Protocol):
    """A residual block that says so; it need not inherit from this class.

    A class that overrides `forward` alone no longer says it: what it computes is another matter.
    """

    def residual_parts(self) -> ResidualParts:
        """The parts as they are now: any of them may have been replaced."""
