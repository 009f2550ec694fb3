"""Rank sets of a part of the network: all of them, the best of them, and those of two parts that cost what is wanted.

Legend: N rank sets, K layers of the part, B bounds of the budget; A_p and A_m quality by energy and by measurement;
i and j rank sets of the left and the right part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from lowrank_exp.rank.enc.curves import network_metric

JOINED = 2_000_000  # rank sets held at once
HALF = 50_000  # rank sets of half of the network
PAIRS = 3_000_000  # rank sets near a budget
HELD, KEPT = 600_000, 10_000  # of more rank sets than HELD the best KEPT stay


@dataclass(frozen=True)
class RankSets:
    """Rank sets of K layers: rungs `(N, K)`, sums of their offsets from R_max, costs `(N, B)` and qualities."""

    rungs: np.ndarray
    offsets: np.ndarray
    costs: np.ndarray
    A_p: np.ndarray
    A_m: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def at(self, places_N: np.ndarray) -> "RankSets":
        """Some of the rank sets."""
        return RankSets(*(getattr(self, field.name)[places_N] for field in fields(self)))

    def score(self, metric: str, dense: int) -> np.ndarray:
        """The metric of this part alone, `(N,)`; its cost relative to the dense cost of the whole network."""
        return network_metric(metric, self.A_p, self.A_m, self.costs[:, 0] / dense)


def no_layers(cost_B: np.ndarray) -> RankSets:
    """The one rank set of no layers, at the cost of what is left alone."""
    return RankSets(np.zeros((1, 0), np.int32), np.zeros(1, np.int64), cost_B[None], np.ones(1), np.ones(1))


def pair_up(left: RankSets, right: RankSets, i_N: np.ndarray, j_N: np.ndarray) -> RankSets:
    """Rank sets i of the left part beside rank sets j of the right part."""
    return RankSets(
        np.concatenate([left.rungs[i_N], right.rungs[j_N]], axis=1),
        left.offsets[i_N] + right.offsets[j_N],
        left.costs[i_N] + right.costs[j_N],
        left.A_p[i_N] * right.A_p[j_N],
        left.A_m[i_N] * right.A_m[j_N],
    )


def join(left: RankSets, right: RankSets) -> RankSets:
    """Every rank set of the left part beside every one of the right part."""
    return pair_up(left, right, *np.divmod(np.arange(len(left) * len(right)), len(right)))


def best_of_each(sets: RankSets, key_N: np.ndarray, metric: str, dense: int) -> RankSets:
    """Of the rank sets with equal key the one that scores highest, the first at ties; in order of the keys."""
    order_N = np.lexsort((-sets.score(metric, dense), key_N))  # stable: at ties the first stays
    key_N = key_N[order_N]
    return sets.at(order_N[np.append(True, key_N[1:] != key_N[:-1])])


def thin_out(sets: RankSets, most: int, metric: str, dense: int) -> RankSets:
    """At most so many rank sets: the best in each of as many equal ranges of cost."""
    if len(sets) <= most:
        return sets
    # By ranges of cost and not by score alone: whatever the other half costs, there must be one here to go with it.
    above_N = sets.costs[:, 0] - sets.costs[:, 0].min()
    return best_of_each(sets, (above_N / (above_N.max() + 1) * most).astype(np.int64), metric, dense)


def find_near(
    begin: RankSets, parts: Sequence[RankSets], low_B: np.ndarray, high_B: np.ndarray, metric: str, dense: int
) -> tuple[RankSets, np.ndarray]:
    """Rank sets of all parts that cost less than every `high` and more than one `low`, best first, and their scores.

    The parts are joined to two halves. For every rank set of the left one, those of the right one are looked up whose
    cost brings the sum between low and high. Where a half, or what is found, would be too large, halves are thinned.
    """
    # Meeting in the middle: two halves of S rank sets each stand for S squared whole ones. Sorting one half finds those
    # near the budget without listing the others.
    left, right = _join_to_halves(begin, parts, metric, dense)
    while (places := _find_pairs_between(left, right, low_B, high_B)) is None:
        if len(left) > len(right):
            left = thin_out(left, len(left) // 2, metric, dense)
        else:
            right = thin_out(right, len(right) // 2, metric, dense)
    i_N, j_N = places
    C_N = (left.costs[i_N, 0] + right.costs[j_N, 0]) / dense
    score_N = network_metric(metric, left.A_p[i_N] * right.A_p[j_N], left.A_m[i_N] * right.A_m[j_N], C_N)
    order_N = np.argsort(-score_N, kind="stable")[: KEPT if len(score_N) > HELD else None]
    return pair_up(left, right, i_N[order_N], j_N[order_N]), score_N[order_N]


def _join_to_halves(begin: RankSets, parts: Sequence[RankSets], metric: str, dense: int) -> list[RankSets]:
    """The parts joined to two halves, cut where the larger one has fewest rank sets."""
    sizes = [math.log(len(part)) for part in parts]
    # In logarithms: the product of so many sizes would overflow.
    cut = min(range(len(parts) + 1), key=lambda at: max(sum(sizes[:at]), sum(sizes[at:])))
    halves = []
    for sets, others in ((begin, parts[:cut]), (no_layers(np.zeros_like(begin.costs[0])), parts[cut:])):
        for part in others:
            sets = join(thin_out(sets, max(1, JOINED // len(part)), metric, dense), part)
            sets = thin_out(sets, HALF, metric, dense)
        halves.append(sets)
    return halves


def _find_pairs_between(
    left: RankSets, right: RankSets, low_B: np.ndarray, high_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rank sets `i` of the left and `j` of the right half; None where there may be more than three million pairs."""
    i_N, j_N = [], []
    for bound in range(len(low_B)):
        order_N = np.argsort(right.costs[:, bound], kind="stable")
        cost_N = right.costs[order_N, bound]
        begin_N = np.searchsorted(cost_N, low_B[bound] - left.costs[:, bound], side="right")
        count_N = np.maximum(np.searchsorted(cost_N, high_B[bound] - left.costs[:, bound]) - begin_N, 0)
        if count_N.sum() > PAIRS:  # told before any of them is listed
            return None
        i = np.repeat(np.arange(len(left)), count_N)
        j = order_N[np.arange(len(i)) + np.repeat(begin_N - np.cumsum(count_N) + count_N, count_N)]
        for other in range(len(low_B)):
            if other != bound:  # a pair that reaches several bounds is counted with the first
                cost_N = left.costs[i, other] + right.costs[j, other]
                counted = cost_N <= low_B[other] if other < bound else cost_N < high_B[other]
                i, j = i[counted], j[counted]
        i_N.append(i)
        j_N.append(j)
    return np.concatenate(i_N), np.concatenate(j_N)
