"""ENC-Map: every layer keeps the same quality, and one curve tells how much of it the budget buys.

Legend: alpha the quality of every layer, y_l(r) its curve, R_l(alpha) ranks (rungs of a ladder), r_max the highest of
them, C(alpha) the share of the dense cost that they cost, C_t the share that may remain. L layers, N values of alpha.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lowrank_exp.checks import one_of
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Candidate, Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.enc.curves import energy_curve, response_curve, samples
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.losses import measured_for

CURVES = ("energy", "measured", "response")
FIRST = ("map", "half", "max")
ALPHA_N = np.arange(10, 101) / 100  # where C(alpha) is computed
STEP = 0.001  # of C_t, until C(R) is near
ITERATIONS = 501


@declares(looks_at=lambda options: ["accuracy"] if options["metric"] == "measured" else measured_for(options))
def enc_map(problem: Problem, *, metric: str = "energy", first: str = "map") -> dict[str, Rank | None]:
    r"""The ranks of one quality alpha for all layers, chosen so that the budget is met.

    .. math:: R_l(\alpha) = \text{round}(r_{max,l} \; y_l^{-1}(\alpha)), \qquad \alpha = C^{-1}(C_t + \delta)

    Both inverses are monotone cubics through samples. delta moves by 0.001 against the sign of C(R) - C_t. No rank is
    below a tenth of r_max, if the budget leaves as much to all layers. Where ranks are pairs (Tucker-2), R counts the
    rungs of the decomposition's ladder.

    Args:
        problem: candidates and budget.
        metric: `energy` takes the curve of singular values, at the ranks that were measured, or at all of them where
            none were; delta stops as soon as C(R) is within 0.001 of C_t, and halves are rounded to even. `measured`
            takes the measured accuracies; delta moves 501 times whatever comes, and halves are rounded up. So do the
            two programs of the authors. `response`, as `energy`, takes what the layer keeps of its responses
            (1 - the response error of `with_errors`) in the place of sums of singular values.
        first: the rank of the network's first convolution: `map` as all others, `half` or `max` of its r_max.

    Raises:
        ValueError: no budget is given, an option is unknown, a layer has no measured accuracy, or no reachable cost
            meets the budget.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC), and the authors' code.

    Differs from the paper:
        1. Ranks that miss the budget by more than 1 % are replaced: alpha is turned up as long as the budget holds,
           and single ranks fill up what is left.
        2. A rank that is not cheaper than dense leaves the layer dense, and counts so.
        3. Given several bounds, C is that of the bound which leaves least room, on the scale of the first.
        4. Measurements that do not rise above all earlier ones are left out of the inverse.
        5. With `first` at half or max, C_t is compared with the highest C(alpha) after the first layer's share has been
           taken off; the program for measured curves compares before.
    """
    if not problem.budget:
        raise ValueError("the enc_map policy needs a budget: set macs or weights to a fraction in (0, 1]")
    rest, fixed = first_fixed(problem, first)
    offset = _overcount(problem, rest, fixed) if metric == "energy" and first == "half" else 0.0
    shared = SharedQuality(rest, metric, offset)
    options = meet(rest, shared.rung_at, shared.level, shared.alpha())
    chosen = {c.profile.name: option for c, option in zip(rest.candidates, options, strict=True)}
    return {
        (name := c.profile.name): rank_of(c, c.option_of(fixed[name]) if name in fixed else chosen[name])
        for c in problem.candidates
    }


class SharedQuality:
    """The ranks that give all candidates one quality, and the quality that a budget buys."""

    def __init__(self, problem: Problem, metric: str, offset: float = 0.0) -> None:
        """`offset` is added to the share of the cost that may remain."""
        one_of("metric", metric, CURVES)
        self.problem, self.measured = problem, metric == "measured"
        room = {w: bound - problem.alone[w] / problem.dense[w] for w, bound in problem.budget.bounds.items()}
        self.target = next(iter(room.values())) + offset
        self.reachable = min(room.values()) > 0 and self.target > 0 and bool(problem.candidates)
        if not self.reachable:
            room = dict.fromkeys(room, 1.0)
        self._scales = {what: next(iter(room.values())) / share for what, share in room.items()}
        self._costs = [cost_tables(candidate, problem) for candidate in problem.candidates]
        self._tenth = True
        tenth_L = np.array([self._lowest(c.profile) for c in problem.candidates])
        self._tenth = self.reachable and self._share(tenth_L[None])[0] <= self.target
        self._points = {c.profile.name: _points(c.profile, metric) for c in problem.candidates}
        self._curves = self._inverses()
        if self.reachable and self.target > self._share(self._rungs(ALPHA_N)).max():
            for _, r_N in self._points.values():
                r_N[-1] = max(1.0, r_N[-1])
            self._curves = self._inverses()

    def alpha(self, space: float = 0.0) -> float:
        """The quality at which C_t + space of the cost remains."""
        if not self.reachable:
            return 0.0
        C_N, place_N = np.unique(np.append(0, self._share(self._rungs(ALPHA_N))), return_index=True)
        if len(C_N) == 1:  # no rank above 0 anywhere
            return 1.0
        inverse = _make_pchip(C_N, np.append(0, ALPHA_N)[place_N])
        wanted = self.target + space
        tried_N = wanted + STEP * np.arange(-ITERATIONS, ITERATIONS + 1)
        alpha_N = np.where(tried_N > 1, 1.0, np.clip(inverse(tried_N), 0.0, 1.0))
        C_N = self._share(self._rungs(alpha_N))
        place = following = ITERATIONS
        for _ in range(ITERATIONS):
            place = following
            following += 1 if C_N[place] <= wanted else -1
            if not self.measured and abs(C_N[place] - wanted) < STEP:
                break
        return float(alpha_N[place])

    def rung_at(self, layer: LayerProfile, alpha: float) -> int:
        """The rung of a layer at alpha, not below the lowest."""
        return max(int(self._rung(layer, np.array([alpha]))[0]), self._lowest(layer))

    def level(self, layer: LayerProfile) -> np.ndarray:
        """The lowest alpha at which the rungs 1, 2 ... are reached, `(rungs,)`; above 1 beyond r_max."""
        grid_N = np.arange(1001) / 1000
        reached_N = np.maximum.accumulate(self._curves[layer.name](grid_N) * layer.r_max)
        rung_R = np.arange(1, layer.rungs + 1)
        level_R = np.interp(rung_R - 0.5, reached_N, grid_N)
        level_R[: self._lowest(layer)] = 0.0
        return np.where(rung_R > layer.r_max, rung_R / layer.r_max, level_R)

    def _lowest(self, layer: LayerProfile) -> int:
        """A tenth of r_max where that of all layers can be afforded, at least 1; halves to even."""
        return max(1, round(layer.r_max / 10)) if self._tenth else 1

    def _inverses(self) -> dict:
        return {name: _make_pchip(y_N, r_N) for name, (y_N, r_N) in self._points.items()}

    def _rung(self, layer: LayerProfile, alpha_N: np.ndarray) -> np.ndarray:
        wished_N = self._curves[layer.name](alpha_N) * layer.r_max
        rounded_N = halves_up(wished_N) if self.measured else np.round(wished_N)
        return np.clip(rounded_N, 0, layer.r_max).astype(np.int64)

    def _rungs(self, alpha_N: np.ndarray) -> np.ndarray:
        return np.stack([self._rung(c.profile, alpha_N) for c in self.problem.candidates], axis=1)

    def _share(self, rungs_NL: np.ndarray) -> np.ndarray:
        """C of the candidates alone, `(N,)`."""
        share_WN = []
        for what, scale in self._scales.items():
            cost_N = sum(costs[what][rungs_N] for costs, rungs_N in zip(self._costs, rungs_NL.T, strict=True))
            share_WN.append(cost_N / self.problem.dense[what] * scale)
        return np.max(share_WN, axis=0)


def first_fixed(problem: Problem, first: str) -> tuple[Problem, dict[str, int]]:
    """The problem without the first convolution, and the rung of that; unchanged where `first` is map."""
    one_of("first", first, FIRST, f"first={first!r} is not known: {', '.join(FIRST)}")
    if first == "map":
        return problem, {}
    index = next((index for index, c in enumerate(problem.candidates) if c.profile.kind == "conv"), None)
    if index is None:
        raise ValueError(f"first={first!r} fixes the first convolution, but none may be decomposed here: set it to map")
    candidate = problem.candidates[index]
    r_max = candidate.profile.r_max
    rung = r_max if first == "max" else max(1, int(halves_up(r_max / 2)))
    option = candidate.option_of(rung)
    alone = {what: cost + candidate.cost(option, what) for what, cost in problem.alone.items()}
    others = problem.candidates[:index] + problem.candidates[index + 1 :]
    return replace(problem, candidates=others, alone=alone), {candidate.profile.name: rung}


def rank_of(candidate: Candidate, option: int) -> Rank | None:
    """The rank of one option, without listing all."""
    rung = candidate.rungs[option]
    return None if rung is None else candidate.profile.ranks[rung - 1]


def options_at(candidate: Candidate, rungs: np.ndarray) -> np.ndarray:
    """`candidate.option_of` of many rungs at once."""
    rungs = np.asarray(rungs)
    offered = [rung for rung in (candidate.rungs[0], *candidate.rungs[-2:]) if rung is not None]
    low, high = offered[0], offered[-1]
    options = np.clip(rungs, low, high) - low
    return np.where(rungs > high, len(candidate.rungs) - 1, options) if candidate.rungs[-1] is None else options


def cost_tables(candidate: Candidate, problem: Problem) -> dict[str, np.ndarray]:
    """What the options at the rungs 0 ... r_max cost, `(r_max + 1,)`, for every bound; nothing at 0."""
    profile = candidate.profile
    options_R = options_at(candidate, np.arange(profile.r_max + 1))
    rungs = [rung for rung in candidate.rungs if rung is not None]
    tables = {}
    for what in problem.budget.bounds:
        costs = getattr(profile, f"rank_{what}")[rungs[0] - 1 : rungs[-1]]
        tables[what] = np.append(costs, getattr(profile, what))[options_R]
        tables[what][0] = 0
    return tables


def halves_up(x: np.ndarray | float) -> np.ndarray:
    """Non-negative numbers rounded, halves up, as MATLAB does."""
    return np.floor(x) + (x - np.floor(x) >= 0.5)


def _points(layer: LayerProfile, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Quality and r / r_max, both rising from (0, 0) to the first that reaches quality 1."""
    if metric == "measured":
        rung_N, y_N = samples(layer)
    else:
        rung_N = samples(layer)[0] if len(layer.sampled_ranks) else np.arange(1, layer.r_max + 1)
        curve = response_curve if metric == "response" else energy_curve
        y_N = curve(layer)[np.minimum(rung_N, layer.r_max) - 1]
    y_N, r_N = np.append(0, y_N), np.append(0, rung_N / layer.r_max)
    reaching = np.count_nonzero(y_N < 1) + 1
    y_N, place_N = np.unique(y_N[:reaching], return_index=True)
    order_N = np.argsort(r_N[place_N])
    y_N, r_N = y_N[order_N], r_N[place_N][order_N]
    rising_N = np.append(True, y_N[1:] > np.maximum.accumulate(y_N)[:-1])
    return y_N[rising_N], r_N[rising_N]


def _overcount(problem: Problem, rest: Problem, fixed: Mapping[str, int]) -> float:
    """The program for energies takes off half of the first layer's r_max, not the rank that this rounds to."""
    candidate = next(c for c in problem.candidates if c.profile.name in fixed)
    what = next(iter(problem.budget.bounds))
    half = candidate.cost(candidate.option_of(candidate.profile.r_max), what) / 2
    return (rest.alone[what] - problem.alone[what] - half) / problem.dense[what]


def _make_pchip(x: np.ndarray, y: np.ndarray):
    from scipy.interpolate import PchipInterpolator

    return PchipInterpolator(x, y)
