"""What surgery asks of a layer that moves channels: where each comes from, and how the layer is cut to some of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

NOTHING = -1  # the source of a channel that is 0 whatever comes in


@runtime_checkable
class MovesChannels(Protocol):
    """A layer whose output channels are input channels as they are, in another place, or zeros.

    Any module that has these members is pruned through; it need not inherit from this class. What it does to a channel
    may change its height and width, as a stride does, and turns 0 into 0.

    Attributes:
        in_channels: how many channels it reads.
    """

    in_channels: int

    def sources(self) -> Sequence[int]:
        """For each output channel the input channel that it is; `NOTHING` where it is 0 always."""

    def keep_channels_(self, out: Sequence[int], inputs: Sequence[int]) -> None:
        """Keep these output and input channels, both ascending, and lose the others, in place.

        Every output channel that is kept comes from an input channel that is kept, or from `NOTHING`. Where a network
        is rebuilt from a file it may be that the layer's tensors have not been loaded yet: sizes count then.
        """


def moves_channels(kind: type) -> bool:
    """Whether the modules of a class move channels."""
    return hasattr(kind, "sources") and hasattr(kind, "keep_channels_")
