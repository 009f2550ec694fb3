"""Ladders of a runtime: which ranks are timed, and which of them are worth having."""

from collections.abc import Sequence

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.multiples import raise_to_multiples

BLOCK = 8  # channels that kernels take together: 8 with AVX2, 16 with AVX-512
SMALL = (1, 2, 3, 4, 6)  # ranks below a block
GROWTH = 0.12  # from one rank to the next, where a block is less
PAIRS = 16  # rungs of a ladder of pairs
DEAREST = 1.25  # of the dense layer's MACs: beyond them no rank is faster
SAME = 0.01  # two times that differ by less are one


def ranks_to_time(layer: LayerProfile) -> tuple[Rank, ...]:
    """Ranks of a layer's only offer that its time is measured at, rising.

    Kernels take channels in blocks, so times fall at multiples of them: every multiple of 8 at first, further apart as
    ranks grow, and a few ranks below 8. Which of them to have is for the measurement to say, see `find_steps`.

    >>> from lowrank_exp.rank import Cost, Costs, Offer
    >>> offer = Offer("channel_svd", range(1, 101), Costs(np.arange(1, 101) * 10, np.arange(1, 101)))
    >>> ranks_to_time(LayerProfile("a", "conv", Cost(800, 90), (offer,)))
    (1, 2, 3, 4, 6, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100)
    """
    if isinstance(layer.full_rank, tuple):
        return _pairs_to_time(layer)
    affordable = [rank for rank, macs in zip(layer.ranks, layer.rank_macs, strict=True) if _may_be_faster(layer, macs)]
    wanted, next_one = [], BLOCK
    for rank in affordable:
        if rank in SMALL or rank == next_one:
            wanted.append(rank)
        if rank == next_one:
            next_one += max(BLOCK, round(GROWTH * rank / BLOCK) * BLOCK) if rank < 8 * BLOCK else _step(rank)
    return tuple(dict.fromkeys([*wanted, *affordable[-1:]]))


def _step(rank: int) -> int:
    return max(2 * BLOCK, round(GROWTH * rank / (2 * BLOCK)) * 2 * BLOCK)


def _pairs_to_time(layer: LayerProfile) -> tuple[Rank, ...]:
    multiple = 2 * BLOCK if min(layer.full_rank) >= 6 * BLOCK else BLOCK
    raised = raise_to_multiples(layer, multiple) or tuple(layer.ranks)
    costs = layer.costs_at(raised)
    affordable = [rank for rank, macs in zip(raised, costs.macs, strict=True) if _may_be_faster(layer, macs)]
    places = np.unique(np.linspace(0, len(affordable) - 1, PAIRS).round().astype(int)) if affordable else []
    return tuple(affordable[place] for place in places)


def _may_be_faster(layer: LayerProfile, macs: int) -> bool:
    return macs <= DEAREST * layer.macs


def find_steps(latency: Sequence[int]) -> list[int]:
    """The rungs, from 0, that no higher one beats: one that takes no more time. So times rise from each to the next.

    >>> find_steps([10, 19, 18, 30])
    [0, 2, 3]
    """
    kept: list[int] = []
    fastest = np.inf
    for rung in reversed(range(len(latency))):
        if latency[rung] < fastest * (1 - SAME):
            kept.append(rung)
            fastest = latency[rung]
    return kept[::-1]
