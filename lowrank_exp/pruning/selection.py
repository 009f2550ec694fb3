"""Which filters go: scores to indices.

Legend: O filters of a layer, C coupled channels of a group, F filters in all, p the fraction that goes. A target is a
layer, or a group of coupled channels by its name; scores are `{target: s_O}`, the lowest first.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from lowrank_exp.checks import fraction, one_of, whole
from lowrank_exp.pruning.groups import ChannelGroup

Chosen = dict[str, tuple[int, ...]]  # ascending indices by target; targets that lose nothing are left out
Unit = tuple[int, ...]  # channels that go together
WAYS = ("sum", "mean", "max", "first")


def group_scores(scores: Mapping[str, Tensor], groups: Iterable[ChannelGroup], how: str = "sum") -> dict[str, Tensor]:
    """The score of every coupled channel, `(C,)`, from those of the filters that make it.

    Args:
        scores: by layer; producers without scores are passed over.
        groups: of coupled channels.
        how: `sum`, `mean` or `max` over all filters that make the channel, or the filters of the `first` scored
            producer that makes it (their sum, where it has several). Of scores below 0, such as those of
            `Orthogonality`, a sum puts channels with many producers first: take the mean.

    Returns:
        By name of the group, in the given order.

    Raises:
        ValueError: another `how`, a channel that no scored filter makes.

    >>> group = ChannelGroup("a", 2, {"a": ((0,), (1,)), "b": ((0,), (1,))})
    >>> group_scores({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0, 1.0])}, [group])
    {'a': tensor([6., 3.], dtype=torch.float64)}
    """
    one_of("how", how, WAYS)
    return {group.name: torch.tensor(_of_channels(scores, group, how), dtype=torch.float64) for group in groups}


def _of_channels(scores: Mapping[str, Tensor], group: ChannelGroup, how: str) -> list[float]:
    lists = {layer: scores[layer].tolist() for layer in group.producers if layer in scores}
    values = []
    for c in range(group.channels):
        by_layer = [[s_O[f] for f in group.producers[layer][c]] for layer, s_O in lists.items()]
        made = [of_layer for of_layer in by_layer if of_layer]
        if not made:
            raise ValueError(f"no scored filter makes channel {c} of {group.name}: score one of its producers")
        every = [s for of_layer in made for s in of_layer]
        of_all = {"sum": sum(every), "mean": sum(every) / len(every), "max": max(every), "first": sum(made[0])}
        values.append(of_all[how])
    return values


def pick_lowest(
    scores: Mapping[str, Tensor],
    n: int,
    *,
    gone: Mapping[str, Sequence[int]] | None = None,
    groups: Iterable[ChannelGroup] = (),
    together: int = 1,
) -> Chosen:
    """The n filters of the lowest scores over all targets, but never a target's last one.

    A target's last filter stays, and its turn passes to the next in rank. Of equal scores the first target's and the
    lowest index go first.

    Args:
        scores: by target, in the order of the network.
        n: how many; 0 or more.
        gone: filters by target that are out already: not chosen again, not counted as remaining.
        groups: of coupled channels, for targets that are their names. Where grouped convolutions ask for equal numbers
            in each of their groups (`ChannelGroup.blocks`), one channel of every part goes at a time, the lowest of
            each, at the mean of their scores. A channel stays without which one of its layers would have no filter
            left (`ChannelGroup.emptied`). In both cases others go in their place, so that up to n go.
        together: so many filters of a target go together, at the mean of their scores, and so many of it stay. What it
            has beyond a multiple of them goes first. Up to n go.

    Raises:
        ValueError: n is not such a number, more than can go, a score is not a number, or parts do not fit one another.

    >>> pick_lowest({"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([0.5, 0.3, 0.9])}, 2)
    {'a': (0,), 'b': (1,)}
    >>> pick_lowest({"a": torch.tensor([0.1, 0.2, 0.6, 0.3, 0.4])}, 4, together=2)
    {'a': (0, 1, 3)}
    """
    whole("n", n, 0, f"n={n!r} is not a number of filters: 0 or more")
    whole("together", together)
    gone = gone or {}
    coupled = {group.name: group for group in groups if group.name in scores}
    uneven = {name: group for name, group in coupled.items() if _uneven(group)}
    ranked: list[tuple[float, str, Unit]] = []
    left: dict[str, int] = {}
    for target, s_O in scores.items():
        blocks = coupled[target].blocks if target in coupled else ()
        units = _join(_units(target, s_O, gone.get(target, ()), blocks), together)
        ranked += [(score, target, unit) for score, unit in units]
        left[target] = len(units)
    ranked.sort(key=lambda entry: entry[0])
    chosen: dict[str, list[int]] = {}
    count = 0
    for _, target, unit in ranked:
        if count == n:
            break
        if left[target] == 1 or count + len(unit) > n:  # a unit that is too large now: a smaller one may still fit
            continue
        out = {*gone.get(target, ()), *chosen.get(target, ()), *unit}
        # A layer that makes only some of the channels, as before a shortcut that pads, may run out before the others.
        if target in uneven and uneven[target].emptied(tuple(c for c in range(len(scores[target])) if c not in out)):
            continue
        chosen.setdefault(target, []).extend(unit)
        left[target] -= 1
        count += len(unit)
    # With units of several channels, or layers that run out, n may be missed by a few: "up to n".
    if count < n and not uneven and not any(len(unit) > 1 for _, _, unit in ranked):
        raise ValueError(f"{n} filters shall go, but only {count} can: each of {len(left)} layers keeps one")
    return {target: tuple(sorted(chosen[target])) for target in scores if target in chosen}


def pick_lowest_share(
    scores: Mapping[str, Tensor],
    p: float,
    *,
    gone: Mapping[str, Sequence[int]] | None = None,
    groups: Iterable[ChannelGroup] = (),
) -> Chosen:
    """The floor(p F) filters of the lowest scores over all targets together, F of them in all, as RePr drops them.

    Those that are `gone` count among the floor(p F): what is returned comes in addition. See `pick_lowest`.

    Raises:
        ValueError: p is not a fraction from 0 to below 1, and as `pick_lowest`.

    >>> pick_lowest_share({"a": torch.tensor([0.1, 0.2, 0.6]), "b": torch.tensor([0.5, 0.3, 0.9])}, 0.5)
    {'a': (0, 1), 'b': (1,)}
    """
    F = sum(len(s_O) for s_O in scores.values())
    out = sum(len(set(gone[target])) for target in scores if target in gone) if gone else 0
    return pick_lowest(scores, max(0, count_share(p, F) - out), gone=gone, groups=groups)


def pick_lowest_of_each(
    scores: Mapping[str, Tensor],
    p: float,
    *,
    gone: Mapping[str, Sequence[int]] | None = None,
    groups: Iterable[ChannelGroup] = (),
) -> Chosen:
    """Of each target the floor(p O) filters of the lowest scores, as SFP and one-shot pruning take them.

    Those that are `gone` count among the floor(p O). See `pick_lowest`.

    Raises:
        ValueError: p is not a fraction from 0 to below 1, and as `pick_lowest`.

    >>> pick_lowest_of_each({"a": torch.tensor([0.1, 0.2, 0.6]), "b": torch.tensor([0.5, 0.3, 0.9])}, 0.5)
    {'a': (0,), 'b': (1,)}
    """
    chosen: Chosen = {}
    for target, s_O in scores.items():
        chosen |= pick_lowest_share({target: s_O}, p, gone=gone, groups=groups)
    return chosen


def count_share(p: float, F: int) -> int:
    """floor(p F), of the decimal fraction that p is written as: of 0.29 and 100 it is 29, though 0.29 * 100 is less.

    Raises:
        ValueError: p is not a fraction from 0 to below 1.

    >>> count_share(0.29, 100), count_share(0.3, 96)
    (29, 28)
    """
    wrong = f"p={p!r} is not a fraction of filters to remove: from 0 to below 1"
    fraction("p", p, wrong, zero=True, one=False)
    return math.floor(p * F + 1e-9)  # the nearest binary number may lie below the decimal fraction


def _uneven(group: ChannelGroup) -> bool:
    """Whether some layer does not make all of the channels, and so may lose all of its filters while others stay."""
    return not all(all(entries) for entries in group.producers.values())


def _units(target: str, s_O: Tensor, gone: Iterable[int], blocks: Sequence) -> list[tuple[float, Unit]]:
    """The channels that can go, alone or together, with their scores; the lowest first."""
    values = [float(s) for s in s_O]
    if any(math.isnan(s) for s in values):
        raise ValueError(f"{target} has scores that are not numbers")
    out = set(gone)
    left = [[c for c in part if c not in out] for part in parts(len(values), blocks)]
    if len({len(part) for part in left}) > 1:
        raise ValueError(f"{target}: its grouped layers split what remains of it into unequal parts; leave it whole")
    # The lowest of every part go together, then the second lowest: equal numbers, whatever is taken of the list.
    ordered = [sorted(part, key=lambda c: (values[c], c)) for part in left]
    together = [tuple(unit) for unit in zip(*ordered, strict=True)]
    return [(sum(values[c] for c in unit) / len(unit), unit) for unit in together]


def _join(units: list[tuple[float, Unit]], together: int) -> list[tuple[float, Unit]]:
    """So many channels in one unit, the lowest in the first, which has what is beyond a multiple of them."""
    if together == 1 or not units:
        return units
    size = max(1, together // len(units[0][1]))
    edges = [0, *range(len(units) % size or size, len(units) + 1, size)]
    joined = [units[low:high] for low, high in pairwise(edges)]
    return [(fmean(score for score, _ in some), tuple(c for _, unit in some for c in unit)) for some in joined]


def parts(C: int, blocks: Sequence) -> list[list[int]]:
    """The channels apart by where they lie in every partition; if equal numbers of each go, all blocks stay equal."""
    cells: dict[tuple[int, ...], list[int]] = {}
    for c in range(C):
        place = tuple(next(i for i, part in enumerate(partition) if c in part) for partition in blocks)
        cells.setdefault(place, []).append(c)
    return list(cells.values())
