"""ENC-Model: of all rank sets near the budget, the one that a metric of quality puts first.

Legend: R rungs (ranks) of the layers, x = R_max - R offset below the upper bound R_max, x_max the largest, t step of x,
c_l cost of one rank, C_t what may remain, delta what R_max costs above it; y_p and y_m qualities of a layer.
N rank sets, L layers, B bounds of the budget, V rungs of a layer from 0 on.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrank_exp.checks import fraction, one_of, whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import TOLERANCE, Candidate, Problem
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.enc.curves import METRICS, energy_curve, measured_curve, network_metric
from lowrank_exp.rank.enc.sets import JOINED, RankSets, best_of_each, find_near, join, no_layers
from lowrank_exp.rank.policies.enc_map import (
    SharedQuality,
    cost_tables,
    enc_map,
    first_fixed,
    halves_up,
    options_at,
    rank_of,
)

DENSITIES = (1.0, 0.5, 0.4, 0.33, 0.25, 0.2, 0.165, 0.125, 0.096)  # tried where none is given
COMBINATIONS = 10_000_000  # of the groups' sums, at most, with a density found here
MEMBERS = 100_000  # rank sets of a sub-group whose size is found here
MAP_AMONG = 100  # the best, of which ENC-Map's rank set is one or is left out: more than anybody scores


@dataclass(frozen=True)
class EncCandidates:
    """Rank sets near a budget, best first: options of the candidates `(N, L)` and their scores `(N,)`."""

    candidates: tuple[Candidate, ...]
    options: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.options)

    def __getitem__(self, place: int) -> dict[str, Rank | None]:
        options = self.options[place].tolist()
        return {c.profile.name: rank_of(c, o) for c, o in zip(self.candidates, options, strict=True)}


def measured_curves(options: Mapping[str, Any]) -> list[str]:
    """Accuracies, where the metric or ENC-Map's curve is made of them; a curve of None takes them where they are."""
    return ["accuracy"] if options["metric"] in ("A_c", "A_m") or options["curve"] == "measured" else []


@declares(looks_at=measured_curves)
def enc_model(
    problem: Problem,
    *,
    metric: str = "A_c",
    space: float = 0.1,
    margin: float = 0.005,
    density: float | None = None,
    first: str = "map",
    sub_groups: int | None = None,
    curve: str | None = None,
) -> dict[str, Rank | None]:
    """The best of `enc_candidates`, whose arguments these are.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC).
    """
    options = {"space": space, "margin": margin, "density": density, "first": first}
    return enc_candidates(problem, metric=metric, sub_groups=sub_groups, curve=curve, **options)[0]


def enc_candidates(
    problem: Problem,
    *,
    metric: str = "A_c",
    space: float = 0.1,
    margin: float = 0.005,
    density: float | None = None,
    first: str = "map",
    sub_groups: int | None = None,
    curve: str | None = None,
) -> EncCandidates:
    r"""Rank sets of a lattice below ENC-Map's of a larger budget, those that cost nearly the budget, best first.

    .. math:: r_l = R_{max,l} - x_l, \quad x_l \in \{0, t_l, 2 t_l, \dots\}, \quad
        \Bigl| \Delta - \sum_l c_l x_l \Bigr| < \delta_m \Delta, \quad \Delta = C(R_{max}) - C_t

    Neighbouring layers with equal c_l form a group: of the members of a group with the same sum of offsets, which cost
    the same, only the one with the highest metric is used, and only sums that are multiples of its smallest step.

    Args:
        problem: candidates and budget.
        metric: of a network's quality: `A_c`, `A_p` (energy alone) or `A_m` (measurement alone).
        space: the bounds of the lattice are ENC-Map's ranks at the budget plus and minus this.
        margin: delta_m.
        density: mean of 1 / t over the layers, of which the steps are made: t = round(alpha t0) with
            t0 = round(r_max / 100), alpha the mean of 1 / t0 over the density. None: the highest of 1, 0.5, 0.4,
            0.33, 0.25, 0.2, 0.165, 0.125 and 0.096 with which the groups have at most ten million combinations; at 1
            no rank of a small network is left out.
        first: the first convolution's rank is half of its r_max, or r_max (`max`); `map` searches it as all others.
        sub_groups: number of parts in which a long group is cut (4 for ResNet-56 in the authors' code); the best
            member of a part is found for each of its sums before parts are joined. None: as few as leave at most
            100,000 members to each.
        curve: of ENC-Map: `energy` or `measured`; None: measured where every layer was.

    Raises:
        ValueError: no budget is given, it cannot be met, an option is out of range, or the metric needs measurements
            that a layer does not have.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC), supplementary material,
    section 4, and the authors' code.

    Differs from the paper:
        1. As in the authors' code, alpha is not lowered until the density is reached, and delta_m is relative to what
           R_max costs above the budget, not to the budget; it is never wider than 1 % of the budget.
        2. Sub-groups are joined by the best member of every sum, where the code tries about ten splits of a sum, every
           20th sum of groups, and every 100th rank set.
        3. Where half of the network has more than 50,000 rank sets, the best in each of as many ranges of cost stay;
           fewer where more than three million rank sets are near the budget. Of more than 600,000 the best 10,000 are
           returned.
        4. Where no rank set is within the margin, those within 1 % of the budget count; where none is, or where R_max
           costs no more than the budget, ENC-Map's ranks are the only rank set.
        5. ENC-Map's own ranks are a candidate too, where they are among the best hundred: the lattice may miss them.
        6. Costs are those of the options: a rank that is not cheaper than dense leaves the layer dense, with quality 1.
        7. Given several bounds, none is exceeded by more than its margin, and one is reached within it.
        8. A budget of time, which ranks take no equal steps of: c_l is their mean, so members of a group with the same
           sum of offsets may differ in time. Times that are met and compared are those of the rank sets themselves.
    """
    _check(problem, metric, space, margin, density, sub_groups)
    if curve is None:
        curve = "measured" if all(len(c.profile.sampled_ranks) for c in problem.candidates) else "energy"
    mapped = enc_map(problem, metric=curve, first=first)
    layers = [_Layer.of(candidate, problem, metric) for candidate in problem.candidates]
    bounds = problem.budget.bounds
    dense_B, alone_B = (np.array([costs[what] for what in bounds]) for costs in (problem.dense, problem.alone))
    budget_B = np.array(list(bounds.values())) * dense_B
    dense = dense_B[0]
    alone = _take_alone(problem, layers, mapped, metric, dense)

    high_L, low_L, free_L = _bounds(problem, curve, first, space)
    delta_B = sum((layer.costs[R] for layer, R in zip(layers, high_L, strict=True)), alone_B) - budget_B
    # Of several bounds the one that R_max exceeds most says how far down the lattice must reach.
    delta = np.max(delta_B / dense_B)
    if delta > 0 and any(free_L):
        x_max_L = [_largest_offset(*of, delta_B) for of in zip(layers, high_L, low_L, strict=True)]
        groups = _groups(layers, free_L)
        t_L = _choose_steps(layers, x_max_L, groups, density)
        sets = [_sets_of(*of) for of in zip(layers, high_L, x_max_L, t_L, strict=True)]
        best = functools.partial(_fold_group, sub_groups=sub_groups, metric=metric, dense=dense)
        parts = [best([sets[l] for l in group], min(t_L[l] for l in group)) for group in groups]
        # The paper's margin first; where the lattice is too coarse for it, what counts as meeting a budget here.
        for width_B in (np.minimum(margin * delta * dense_B, TOLERANCE * budget_B), TOLERANCE * budget_B):
            sets_near, scores = find_near(
                no_layers(alone_B), parts, budget_B - width_B, budget_B + width_B, metric, dense
            )
            if len(sets_near):
                options = [layer.options[R_N] for layer, R_N in zip(layers, sets_near.rungs.T, strict=True)]
                lattice = EncCandidates(problem.candidates, np.stack(options, axis=1), scores)
                return _put_in(lattice, alone)
    return alone


@dataclass(frozen=True)
class _Layer:
    """What is known of the rungs 0 ... r_max of a candidate: options, costs `(V, B)` and qualities; c_l and t0."""

    options: np.ndarray
    costs: np.ndarray
    y_p: np.ndarray
    y_m: np.ndarray
    per_rank: tuple[float, ...]
    t0: int

    @classmethod
    def of(cls, candidate: Candidate, problem: Problem, metric: str) -> "_Layer":
        profile = candidate.profile
        options_V = options_at(candidate, np.arange(profile.r_max + 1))
        rungs_V = np.array([rung or 0 for rung in candidate.rungs])[options_V]  # 0: dense
        ones_V = np.ones(profile.r_max)
        curves = (
            energy_curve(profile) if metric != "A_m" else ones_V,
            measured_curve(profile) if metric != "A_p" else ones_V,
        )
        y_p_V, y_m_V = (np.where(rungs_V == 0, 1.0, y[np.clip(rungs_V, 1, profile.r_max) - 1]) for y in curves)
        costs = cost_tables(candidate, problem)
        per_rank = tuple(float(getattr(profile, f"rank_{what}")[-1]) / profile.rungs for what in costs)
        costs_VB = np.stack(list(costs.values()), axis=1)
        return cls(options_V, costs_VB, y_p_V, y_m_V, per_rank, max(1, round(profile.r_max / 100)))


def _bounds(problem: Problem, curve: str, first: str, space: float) -> tuple[list[int], list[int], list[bool]]:
    """Upper and lower rung of every candidate, and whether it is free; a fixed first convolution is not."""
    rest, fixed = first_fixed(problem, first)
    shared = SharedQuality(rest, curve)
    bounds = []
    for alpha in (shared.alpha(space), shared.alpha(-space)):
        rungs = {c.profile.name: shared.rung_at(c.profile, alpha) for c in rest.candidates} | fixed
        bounds.append([rungs[c.profile.name] for c in problem.candidates])
    return *bounds, [c.profile.name not in fixed for c in problem.candidates]


def _largest_offset(layer: _Layer, high: int, low: int, delta_B: np.ndarray) -> int:
    """x_max: down to the lower bound, or by as many ranks as cost what R_max costs above the budget."""
    return min(max(high - low, 0), max(0, int(np.max(halves_up(np.maximum(delta_B, 0) / layer.per_rank)))))


def _groups(layers: Sequence[_Layer], free_L: Sequence[bool]) -> list[list[int]]:
    """Neighbouring layers whose ranks cost the same."""
    keys = [(free, layer.per_rank) for layer, free in zip(layers, free_L, strict=True)]
    return [list(group) for _, group in itertools.groupby(range(len(layers)), keys.__getitem__)]


def _choose_steps(
    layers: Sequence[_Layer],
    x_max_L: Sequence[int],
    groups: Sequence[Sequence[int]],
    density: float | None,
) -> list[int]:
    """t of every layer."""
    # A step is in proportion to r_max, so that all layers have about as many; the density scales them together. If the
    # lattice is so fine that its rank sets cannot be listed, the next lower density is tried.
    t0_density = np.mean([1 / layer.t0 for layer in layers])
    for tried in DENSITIES if density is None else (density,):
        alpha = t0_density / tried
        t_L = [
            min(max(1, round(layer.t0 * alpha)), x_max) if x_max else 1
            for layer, x_max in zip(layers, x_max_L, strict=True)
        ]
        sums = [sum(x_max_L[l] for l in group) // min(t_L[l] for l in group) + 1 for group in groups]
        if math.prod(sums) <= COMBINATIONS:
            break
    return t_L


def _sets_of(layer: _Layer, high: int, x_max: int, t: int) -> RankSets:
    """The offsets of one layer; of those with the same option the smallest."""
    x_N = np.arange(0, x_max + 1, t)
    # Ranks above the cheaper ones all leave the layer dense: one option, which counts once.
    x_N = x_N[np.sort(np.unique(layer.options[high - x_N], return_index=True)[1])]
    R_N = high - x_N
    return RankSets(R_N[:, None].astype(np.int32), x_N, layer.costs[R_N], layer.y_p[R_N], layer.y_m[R_N])


def _fold_group(sets: Sequence[RankSets], step: int, sub_groups: int | None, metric: str, dense: int) -> RankSets:
    """The best rank set of a group of layers for every sum of offsets that is a multiple of `step`."""
    # Equal sums of offsets cost the same, so of these only the highest metric is kept. A chunk is listed whole before
    # any of it is left out, as in the authors' code; so chunks are as large as memory allows.
    size = len(sets) if sub_groups is None else max(1, len(sets) // sub_groups)
    while sub_groups is None and size > 1 and max(_count_members(sets, size)) > MEMBERS:
        size -= 1
    if (members := max(_count_members(sets, size))) > JOINED:
        raise ValueError(
            f"sub_groups={sub_groups} leaves {members:,} rank sets to a sub-group, more than {JOINED:,}: raise it, set "
            "it to null, or lower the density"
        )
    folded = []
    for at in range(0, len(sets), size):
        chunk = functools.reduce(join, sets[at : at + size])
        folded.append(best_of_each(chunk, chunk.offsets, metric, dense))
    best = folded[0]
    for more in folded[1:]:
        best = join(best, more)
        best = best_of_each(best, best.offsets, metric, dense)
    return best.at(np.flatnonzero(best.offsets % step == 0))


def _count_members(sets: Sequence[RankSets], size: int) -> list[int]:
    """Rank sets of every sub-group of so many layers."""
    return [math.prod(len(one) for one in sets[at : at + size]) for at in range(0, len(sets), size)]


def _take_alone(
    problem: Problem, layers: Sequence[_Layer], ranks: Mapping[str, Rank | None], metric: str, dense: int
) -> EncCandidates:
    """One rank set, of whatever options."""
    options = [c.ranks.index(ranks[c.profile.name]) for c in problem.candidates]
    # Beyond r_max nothing is lost.
    rungs = [
        int(np.argmax(layer.options == option)) if option in layer.options else -1
        for layer, option in zip(layers, options, strict=True)
    ]
    A_p = math.prod(float(layer.y_p[rung]) for layer, rung in zip(layers, rungs, strict=True))
    A_m = math.prod(float(layer.y_m[rung]) for layer, rung in zip(layers, rungs, strict=True))
    C = problem.cost(options, next(iter(problem.budget.bounds))) / dense
    score = network_metric(metric, A_p, A_m, C)
    return EncCandidates(problem.candidates, np.array([options], dtype=np.int64), np.array([score]))


def _put_in(sets: EncCandidates, one: EncCandidates) -> EncCandidates:
    """One more rank set, in its place, unless it is there already or not among the best."""
    place = int(np.count_nonzero(sets.scores >= one.scores[0]))
    if place >= MAP_AMONG or (sets.options == one.options).all(axis=1).any():
        return sets
    options, scores = (np.insert(getattr(sets, of), place, getattr(one, of)[0], axis=0) for of in ("options", "scores"))
    return EncCandidates(sets.candidates, options, scores)


def _check(
    problem: Problem, metric: str, space: float, margin: float, density: float | None, sub_groups: int | None
) -> None:
    if not problem.budget:
        raise ValueError("ENC's rank sets need a budget: set macs or weights to a fraction in (0, 1]")
    one_of("metric", metric, METRICS, f"metric={metric!r} is not known: {', '.join(METRICS)}")
    for name, value in (("space", space), ("margin", margin), ("density", 1.0 if density is None else density)):
        fraction(name, value)
    if sub_groups is not None:
        whole("sub_groups", sub_groups, message=f"sub_groups={sub_groups!r} is neither a number of parts nor null")
