"""Coupled channels: what of a network has to go when one channel goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Entries = tuple[tuple[int, ...], ...]  # for each channel of a group, its indices in one layer; often one, may be none
Filters = Mapping[str, tuple[int, ...]]  # by layer, ascending


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share, because what one puts out is added to, or filtered apart by, the other.

    A plain convolution whose output only other layers read is a group with itself as the only producer. Along a
    residual stream every block's last convolution is a producer of the same channels. A depthwise convolution is
    producer and consumer of the same channels.

    Attributes:
        name: that of the first producer, in the order of the network.
        channels: C, how many there are.
        producers: `producers[layer][c]` are the filters of `layer` (indices of its output channels or features) that
            make channel c; none where the layer does not reach it, as behind a shortcut that pads.
        norms: the entries of layers with one value per channel: batch norms, PReLU, those that move channels.
        consumers: the input channels or features in which a layer reads c; several where a map was flattened.
        own_norms: `own_norms[layer][norm][f]` are the entries of a batch norm that see filter f of `layer` alone,
            before anything is added to it.
        blocks: for each grouped convolution that reads or makes the channels, those of each of its groups. Equal
            numbers of them have to remain.
    """

    name: str
    channels: int
    producers: Mapping[str, Entries]
    norms: Mapping[str, Entries] = field(default_factory=dict)
    consumers: Mapping[str, Entries] = field(default_factory=dict)
    own_norms: Mapping[str, Mapping[str, Entries]] = field(default_factory=dict)
    blocks: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, self.channels))

    def balanced(self, kept: tuple[int, ...]) -> bool:
        """Whether grouped convolutions can have the channels `kept`: equal numbers in all of their groups.

        >>> group = ChannelGroup("conv", 4, {}, blocks=(((0, 1), (2, 3)),))
        >>> group.balanced((0, 2)), group.balanced((0, 1))
        (True, False)
        """
        left = set(kept)
        return all(len({len(left.intersection(block)) for block in blocks}) == 1 for blocks in self.blocks)

    def emptied(self, kept: tuple[int, ...]) -> str | None:
        """The first producer that would have no filter left with the channels `kept`; None where all have some.

        >>> ChannelGroup("a", 2, {"a": ((0,), ()), "b": ((0,), (1,))}).emptied((1,))
        'a'
        """
        return next((n for n, entries in self.producers.items() if not any(entries[c] for c in kept)), None)
