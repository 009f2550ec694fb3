"""Ranks of a network carried over to a thinner or wider copy of it."""

from collections.abc import Sequence

from lowrank_exp.checks import is_whole, positive
from lowrank_exp.decomposition import Rank


def ranks_at_width(width: float, **ranks: Rank | Sequence[int] | None) -> dict[str, Rank | None]:
    """Every rank times `width`, rounded (halves to even), at least 1; None, which leaves a layer alone, stays.

    A network whose channels are all multiplied by `width` has the same share of every full rank left. A small copy of a
    large network takes published ranks that way.

    Args:
        width: the multiplier of the network's channels, above 0.
        ranks: ranks by layer name, of the network at width 1.

    Raises:
        ValueError: a width that is not a number above 0, or a rank that is neither a whole number nor several of them.

    >>> ranks_at_width(0.125, conv1=10, conv2=[25, 59], fc=None)
    {'conv1': 1, 'conv2': (3, 7), 'fc': None}
    """
    positive("width", width, f"width={width!r}, but ranks are multiplied by a number above 0", infinite=True)
    return {name: _at_width(name, rank, width) for name, rank in ranks.items()}


def _at_width(name: str, rank: Rank | Sequence[int] | None, width: float) -> Rank | None:
    if rank is None:
        return None
    several = isinstance(rank, Sequence) and not isinstance(rank, str)
    numbers = tuple(rank) if several else (rank,)
    if not numbers or not all(map(is_whole, numbers)):
        raise ValueError(f"{name}: its rank is a whole number, several of them, or null (leave alone), got {rank!r}")
    scaled = tuple(max(1, round(width * one)) for one in numbers)
    return scaled if several else scaled[0]
