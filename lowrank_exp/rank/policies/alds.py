"""ALDS: of every layer the number of input groups and the rank, at one relative error in the operator norm.

Legend: k input groups, j rank, alpha_{i,j} singular value j of input group i, alpha_1 the largest of the whole matrix,
eps the error that no layer exceeds. Arrays: J rungs that may be wished, W bounds of the budget.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowrank_exp.checks import one_of, whole
from lowrank_exp.rank.budget import ROUNDING, BudgetError, Candidate, Choice, Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.layer_profile import LayerProfile

BOUNDS = ("paper", "code")
SOLVERS = ("alternating", "exact")
STARTS = (3, 5, 7, 9)  # k of all layers in the first restarts


@declares(chooses=True)
def alds(
    problem: Problem,
    *,
    bound: str = "paper",
    restarts: int = 15,
    iterations: int = 4,
    seed: int = 0,
    solver: str = "alternating",
) -> dict[str, Choice | None]:
    r"""The k and j of every layer with the smallest largest error that the budget allows.

    .. math:: \min_{k, j} \max_l \epsilon_l(k_l, j_l) \quad \text{such that} \quad \sum_l c_l(k_l, j_l) \le C, \qquad
        \epsilon_l(k, j) = \frac{\sqrt k}{\alpha_{l,1}} \max_{i \le k} \alpha_{l,i,j+1}
        \ge \frac{\lVert W_l - \hat W_l \rVert_2}{\lVert W_l \rVert_2}

    Solver `alternating`, from every start: the global step finds the smallest eps for the k at hand, with the ranks
    j_l = min {j : eps_l(k_l, j) <= eps}; the local step gives every layer the k of least error at the rank that costs
    about what the layer costs now. Solver `exact` needs no start: at a given eps each layer takes the k that costs
    least, and the smallest eps that the budget allows is found by bisection.

    Single ranks then fill up what is left of the budget, those of the largest error first. A layer whose wished rank is
    not cheaper than dense stays dense. The order of layers does not matter.

    Args:
        problem: candidates and budget. What a layer may choose from are channel SVDs with different k: grouped channel
            SVD, or channel SVD or linear SVD with k = 1; k = 1 must be among them. A layer with groups of its own is
            one matrix of blocks.
        bound: `paper`, eps_l as above; `code`, without sqrt(k), as in the authors' code.
        restarts: starts: k = 3, 5, 7, 9 in all layers (the nearest that a layer has), then random ones.
        iterations: global and local steps from every start.
        seed: of the random starts.
        solver: `alternating`, the paper's, or `exact`.

    Raises:
        ValueError: no budget is given, an option is unknown or out of range, a layer has no k = 1 or a decomposition
            of another kind, or no reachable cost meets the budget.

    Source: Liebenwein, Maalouf, Feldman, Rus 2021, "Compressing neural networks: towards determining the optimal
    layer-wise decomposition" (ALDS), algorithm 1, https://arxiv.org/abs/2107.11442.

    Differs from the paper:
        1. Dense is an option; in the paper every layer is decomposed.
        2. Any budget (MACs, weights, bytes), met within 1 %. Where the k of the smallest eps cannot meet it, those of
           the next best step are tried.
        3. `exact` is ours: for one eps the layers do not depend on each other, so neither steps nor starts are needed.
           With several budgets it is exact where the k that costs least does so by each of them, as it does unless
           convolutions are transposed.
        4. Without numbers (on the meta device) the error counts as falling evenly from rank to rank.
    """
    _check(problem, bound, restarts, iterations, seed, solver)
    problem = replace(problem, candidates=tuple(sorted(problem.candidates, key=lambda c: c.profile.name)))
    layers = [_list_splits(candidate, problem, bound) for candidate in problem.candidates]
    # What all layers that may be decomposed can spend, as integers: sums of costs are compared exactly.
    limit_W = np.array(
        [
            math.floor(share * problem.dense[what] * (1 + ROUNDING)) - problem.alone[what]
            for what, share in problem.budget.bounds.items()
        ]
    )
    if solver == "exact":
        steps = [(0.0, 0.0, _solve_exactly(layers, limit_W))]
    else:
        starts = _draw_starts(layers, restarts, seed)
        steps = [step for start in starts for step in _alternate(start, layers, limit_W, iterations)]
        if all(eps == np.inf for eps, _, _ in steps):
            steps = list(_alternate(_choose_cheapest(layers, np.inf), layers, limit_W, iterations))
    # Of two with the same eps the cheaper one leaves more to fill up.
    steps.sort(key=lambda step: step[:2])
    tried = {tuple(split.k for split in splits): splits for *_, splits in steps}
    unmet = None
    # The smallest eps may be out of reach of the budget's 1 %, as steps from rank to rank are coarse: then the next.
    for splits in tried.values():
        try:
            return _meet_budget(problem, splits)
        except BudgetError as error:
            unmet = unmet or error
    raise unmet


def _check(problem: Problem, bound: str, restarts: int, iterations: int, seed: int, solver: str) -> None:
    if not problem.budget:
        raise ValueError("the alds policy needs a budget: set macs or weights to a fraction in (0, 1]")
    for name, value, known in (("bound", bound, BOUNDS), ("solver", solver, SOLVERS)):
        one_of(name, value, known)
    for name, value, least in (("restarts", restarts, 1), ("iterations", iterations, 1), ("seed", seed, 0)):
        whole(name, value, least, f"{name}={value!r} is not an integer of at least {least}")


@dataclass(frozen=True, eq=False)
class Split:
    """One layer with k input groups. The rungs J that may be wished start at `first`; dense is behind them, if allowed.

    errors: `(J,)`, falling. costs: `(J, W)`, those of dense where a rung is not cheaper. prices: `(J,)`, costs of the
    rungs themselves as a share of the budget; halfway: between the prices.
    """

    candidate: Candidate
    k: int
    first: int
    errors: np.ndarray
    costs: np.ndarray
    prices: np.ndarray
    halfway: np.ndarray

    def wished(self, eps: float) -> int:
        """The place of the first rung within `eps`, of the last one if none is."""
        return min(int(np.searchsorted(-self.errors, -eps)), len(self.errors) - 1)


def _list_splits(candidate: Candidate, problem: Problem, bound: str) -> list[Split]:
    """What a layer may choose from, by rising k."""
    by_k: dict[int, Candidate] = {}
    for one in (candidate, *candidate.others):
        k = one.profile.offer.input_groups
        if k is None:
            raise ValueError(
                f"{one.profile.name}: alds compares channel SVDs of k input groups, got {one.profile.decomposition} "
                f"{one.profile.options or ''}: list grouped_channel_svd with different groups, 1 among them, for "
                "convolutions and linear_svd for linear layers, or take knapsack"
            )
        by_k.setdefault(k, one)
    if 1 not in by_k:
        raise ValueError(
            f"{candidate.profile.name}: alds divides by the operator norm of the whole matrix, and there is no k = 1, "
            f"only {sorted(by_k)}: list grouped_channel_svd with groups 1 among them"
        )
    alpha_1 = float(_alpha(by_k[1].profile)[0]) or 1.0  # a layer of zeros loses nothing
    scales = {k: (math.sqrt(k) if bound == "paper" else 1.0) / alpha_1 for k in by_k}
    return [_make_split(by_k[k], k, scales[k], problem) for k in sorted(by_k)]


def _make_split(candidate: Candidate, k: int, scale: float, problem: Problem) -> Split:
    layer, rungs = candidate.profile, [rung for rung in candidate.rungs if rung is not None]
    bounds, dense_too = problem.budget.bounds, candidate.rungs[-1] is None
    # Where dense is allowed, rungs dearer than dense may be wished too: the layer then is dense, at the cost of dense.
    wished = slice(rungs[0] - 1, layer.rungs if dense_too else rungs[-1])
    below = np.append(_alpha(layer), 0.0)  # alpha_{j+1} at place j
    error_J = scale * below[np.asarray(layer.ranks)[wished]]
    cost_JW = np.stack([getattr(layer, f"rank_{what}")[wished] for what in bounds], axis=1)
    price_J = (cost_JW / [share * problem.dense[what] for what, share in bounds.items()]).max(axis=1)
    if dense_too:
        dense_W = np.array([getattr(layer, what) for what in bounds])
        cost_JW = np.vstack([cost_JW[: len(rungs)], np.tile(dense_W, (len(error_J) - len(rungs) + 1, 1))])
        error_J = np.append(error_J, 0.0)
    return Split(candidate, k, rungs[0], error_J, cost_JW, price_J, (price_J[1:] + price_J[:-1]) / 2)


def _alpha(layer: LayerProfile) -> np.ndarray:
    """The largest of the singular values 1, 2 ... over the groups of a layer."""
    alpha = layer.singular_values.max(axis=0).astype(np.float64)
    if layer.offer.made_up:
        return np.linspace(1, 0, len(alpha), endpoint=False)
    return alpha


def _draw_starts(layers: Sequence[Sequence[Split]], restarts: int, seed: int) -> Iterator[list[Split]]:
    for k in STARTS[:restarts]:
        yield [_choose_nearest(splits, k) for splits in layers]
    generator = np.random.default_rng(seed)
    for _ in range(restarts - len(STARTS)):
        yield [splits[generator.integers(len(splits))] for splits in layers]


def _choose_nearest(splits: Sequence[Split], k: int) -> Split:
    return min(splits, key=lambda split: (abs(split.k - k), split.k))


def _alternate(
    splits: list[Split], layers: Sequence[Sequence[Split]], limit_W: np.ndarray, iterations: int
) -> Iterator[tuple[float, float, list[Split]]]:
    """The smallest eps of every global step, how much of the budget it takes, and the k that have it."""
    eps, load = _global_step(splits, limit_W)
    yield eps, load, splits
    for _ in range(iterations):
        splits = [_local_step(now, every, eps) for now, every in zip(splits, layers, strict=True)]
        eps, load = _global_step(splits, limit_W)
        yield eps, load, splits


def _global_step(splits: Sequence[Split], limit_W: np.ndarray) -> tuple[float, float]:
    """The smallest eps at which the budget holds, and how much of it that takes; inf where it does not hold at any."""
    # As eps falls, a layer leaves a rung for the next one as soon as eps is below the rung's error. So the budget is
    # spent step by step in the order of these errors, and the first step that exceeds it tells where eps must stop.
    spent_W = sum((split.costs[0] for split in splits), start=np.zeros(len(limit_W), dtype=np.int64))
    if (spent_W > limit_W).any():
        return math.inf, math.inf
    error = np.concatenate([np.zeros(0), *(split.errors[:-1] for split in splits)])
    dearer = np.concatenate([np.zeros((0, len(limit_W)), np.int64), *(np.diff(s.costs, axis=0) for s in splits)])
    order = np.argsort(-error, kind="stable")
    spent_W = spent_W + np.cumsum(dearer[order], axis=0)
    too_much = (spent_W > limit_W).any(axis=1)
    eps = float(error[order[np.argmax(too_much)]]) if too_much.any() else 0.0
    return eps, float((sum(split.costs[split.wished(eps)] for split in splits) / np.maximum(limit_W, 1)).max())


def _local_step(now: Split, splits: Sequence[Split], eps: float) -> Split:
    """The k of least error at about the price of `now` at `eps`."""
    price = now.prices[min(now.wished(eps), len(now.prices) - 1)]

    def loses(split: Split) -> tuple[float, float, int]:
        nearest = int(np.searchsorted(split.halfway, price, side="right"))
        return split.errors[nearest], split.prices[nearest], split.k

    return min(splits, key=loses)


def _choose_cheapest(layers: Sequence[Sequence[Split]], eps: float) -> list[Split]:
    """Of every layer the k that costs least at `eps`."""

    def costs(split: Split) -> tuple:
        wished = split.wished(eps)
        return (*split.costs[wished], split.errors[wished], split.k)

    return [min(splits, key=costs) for splits in layers]


def _solve_exactly(layers: Sequence[Sequence[Split]], limit_W: np.ndarray) -> list[Split]:
    """Of every layer the k that costs least at the smallest eps that the budget allows."""
    errors = np.unique(np.concatenate([np.zeros(1), *(split.errors for splits in layers for split in splits)]))

    def fits(eps: float) -> bool:
        return bool((sum(s.costs[s.wished(eps)] for s in _choose_cheapest(layers, eps)) <= limit_W).all())

    low, high = -1, len(errors)  # errors[low] does not fit, errors[high] does or is beyond the last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(errors[middle]) else (middle, high)
    return _choose_cheapest(layers, float(errors[high]) if high < len(errors) else math.inf)


def _meet_budget(problem: Problem, splits: Sequence[Split]) -> dict[str, Choice | None]:
    problem = replace(problem, candidates=tuple(replace(split.candidate, others=()) for split in splits))
    levels = {
        # A rung is wished as soon as the one before it has too large an error.
        split.candidate.profile.name: np.concatenate([np.zeros(split.first), 1 / (1 + split.errors)])
        for split in splits
    }
    options = meet(problem, lambda layer, _: layer.rungs, lambda layer: levels[layer.name], None)
    chosen = [Choice(c.profile, c.ranks[o]) for c, o in zip(problem.candidates, options, strict=True)]
    return {one.profile.name: None if one.rank is None else one for one in chosen}
