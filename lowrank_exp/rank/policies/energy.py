"""Energy: what a layer keeps of its singular values decides on its rank.

Legend: s singular values of a layer, E(r) their energy up to rank r as a share of all of it, C cost. Arrays: O options
of a layer, R rungs, W bounds of the budget.
"""

from collections.abc import Iterable

import numpy as np

from lowrank_exp.checks import fraction, is_whole, one_of
from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.fitting.energy import energy_of
from lowrank_exp.rank.budget import ROUNDING, Candidate, Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile

RULES = ("share", "product")
EQUAL = 1e-9  # energies per cost that differ by less, relatively, count as equal


def energy(
    problem: Problem, *, share: float | None = None, power: int = 2, rule: str = "share"
) -> dict[str, Rank | None]:
    r"""Ranks by the energy that they keep: the same share in all layers, or the largest product over layers.

    .. math:: E_l(r) = \frac{\sum_{i \le r} s_{l,i}^p}{\sum_i s_{l,i}^p}

    Rule `share`: the smallest ranks that keep `share`, or the largest share that a budget allows.

    .. math:: r_l = \min \{ r : E_l(r) \ge \text{share} \}

    Rule `product`: maximise the product of all E_l under a budget, greedily. Every layer starts at its highest option,
    mostly dense, with E = 1; the drop that loses least energy for what it saves is taken again and again until the
    budget holds:

    .. math:: \min_{l, \, r' < r_l} \frac{(E_l(r_l) - E_l(r')) / E_l(r_l)}{C_l(r_l) - C_l(r')}

    Args:
        problem: candidates and budget.
        share: in (0, 1]; None where a budget decides.
        power: p, 2 for squared singular values, 1 for plain ones.
        rule: `share` or `product`.

    Raises:
        ValueError: both or neither of share and a budget are given, or an option is out of range; power 1 where a
            decomposition has no singular values; no reachable cost meets the budget.

    Source: `share`: the baseline SVD-Energy of Liebenwein, Maalouf, Feldman, Rus 2021, "Compressing neural networks:
    towards determining the optimal layer-wise decomposition" (ALDS). `product`: the rank selection of Zhang, Zou, He,
    Sun 2015, "Accelerating very deep convolutional networks for classification and detection".

    Differs from the paper (product):
        1. Energies are those of the weight; the paper's are eigenvalues of a layer's responses to images.
        2. Costs are those of the factors, and dense is an option beside them; in the paper a layer costs r / full rank
           of what it costs dense. A drop may therefore pass over several ranks: the highest rank that is cheaper than
           dense often saves next to nothing. Where energy is concave in cost, as that of an SVD is below dense, it
           passes over none.
        3. Given several bounds, a cost is the sum of its shares of those limits that are still exceeded.
        4. Where the last drop leaves more than 1 % of the budget, drops are undone, last ones first, rank by rank, as
           far as the budget allows.
    """
    one_of("rule", rule, RULES)
    if not is_whole(power, 1, 2):
        raise ValueError(f"power={power!r} is neither 2 (squared singular values) nor 1 (plain ones)")
    energies = {c.profile.name: _energy_at_rungs(c.profile, power) for c in problem.candidates}

    def rung_at(layer: LayerProfile, wanted: float) -> int:
        # A share of exactly one means every direction that the arithmetic can tell from zero.
        return min(int(np.searchsorted(energies[layer.name], wanted * (1 - 1e-12))) + 1, layer.rungs)

    def level(layer: LayerProfile) -> np.ndarray:
        return np.concatenate([[0.0], energies[layer.name][:-1]])

    if rule == "product":
        _check_product(problem, share)
        options = _maximise_product(problem, energies)
    elif (share is None) == (not problem.budget):
        got = "neither" if share is None else f"share={share} and a budget ({problem.budget.bounds})"
        raise ValueError(
            f"the energy policy takes a share or a budget (macs, weights), got {got}: set the other to null"
        )
    elif share is None:
        options = meet(problem, rung_at, level, None)
    else:
        fraction("share", share, f"share={share!r} is not in (0, 1]: 0.9 keeps 90 % of the squared singular values")
        options = [c.option_of(rung_at(c.profile, share)) for c in problem.candidates]
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _energy_at_rungs(layer: LayerProfile, power: int) -> np.ndarray:
    """E at every rung, `(rungs,)`."""
    if power == 2:
        return layer.energy
    if not layer.singular_values.size:
        raise ValueError(
            f"{layer.name}: power=1 adds up singular values, and {layer.decomposition} has none: set power to 2, which "
            "takes the energies of its ranks, or choose another policy"
        )
    values_GR = layer.singular_values.astype(np.float64)
    return energy_of(np.sqrt(values_GR))[np.asarray(layer.ranks) - 1]


def _check_product(problem: Problem, share: float | None) -> None:
    if share is not None or not problem.budget:
        got = "no budget" if share is None else f"share={share}"
        raise ValueError(
            f"rule='product' takes a budget (macs, weights) and no share, got {got}: set macs or weights to a fraction "
            "in (0, 1] and share to null, or take rule='share'"
        )


def _maximise_product(problem: Problem, energies: dict[str, np.ndarray]) -> list[int]:
    dropped = _drop_greedily(problem, energies)
    levels = {c.profile.name: _at_rungs(c, of_O) for c, of_O in zip(problem.candidates, dropped, strict=True)}

    def rung_at(layer: LayerProfile, t: float) -> int:
        return int(np.count_nonzero(levels[layer.name] <= t))

    return meet(problem, rung_at, lambda layer: levels[layer.name], 0.0)


def _drop_greedily(problem: Problem, energies: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of every candidate, 1 / the number of the drop that took an option away, 0 where it stays, `(O,)`."""
    bounds = problem.budget.bounds
    limits = [bound * problem.dense[what] * (1 + ROUNDING) for what, bound in bounds.items()]
    spent = [problem.cost([len(c.rungs) - 1 for c in problem.candidates], what) for what in bounds]
    cost_LOW = [_costs(candidate, bounds) for candidate in problem.candidates]
    E_LO = [_at_options(c, energies[c.profile.name], 1.0) for c in problem.candidates]
    order_LO = [np.zeros(len(c.rungs)) for c in problem.candidates]
    top_L = [len(c.rungs) - 1 for c in problem.candidates]
    number = 0
    while over := [w for w, limit in enumerate(limits) if spent[w] > limit]:
        drops = []
        for index, (candidate, top) in enumerate(zip(problem.candidates, top_L, strict=True)):
            cost_O = (cost_LOW[index][: top + 1, over] / np.array(limits)[over]).sum(1)
            steps = _list_drops(cost_O, E_LO[index][: top + 1])
            drops += [(ratio, candidate.profile.name, -high, low, index) for ratio, high, low in steps]
        for _, _, _, low, index in sorted(drops):
            number += 1
            saved_W = cost_LOW[index][top_L[index]] - cost_LOW[index][low]
            spent = [s - saved for s, saved in zip(spent, saved_W.tolist(), strict=True)]
            order_LO[index][low + 1 : top_L[index] + 1] = 1 / number
            top_L[index] = low
            if any(spent[w] <= limits[w] for w in over):
                break
        else:  # every layer is at its cheapest
            break
    return order_LO


def _costs(candidate: Candidate, bounds: Iterable[str]) -> np.ndarray:
    """What the options cost, `(O, W)`."""
    layer = candidate.profile
    return np.stack([_at_options(candidate, getattr(layer, f"rank_{w}"), getattr(layer, w)) for w in bounds], axis=1)


def _at_options(candidate: Candidate, of_R: np.ndarray, of_dense: float) -> np.ndarray:
    """Of numbers for the rungs and for dense, those of the options, `(O,)`."""
    places = [of_R.size if rung is None else rung - 1 for rung in candidate.rungs]
    return np.append(of_R, of_dense)[places]


def _list_drops(cost_O: np.ndarray, E_O: np.ndarray) -> list[tuple[float, int, int]]:
    """The drops from the last option to the first: energy lost for cost saved, which rises, and both options."""
    hull = []  # of energy over cost, from above
    for option, (cost, kept) in enumerate(zip(cost_O.tolist(), E_O.tolist(), strict=True)):
        while len(hull) > 1:
            (_, cost_a, E_a), (_, cost_b, E_b) = hull[-2:]
            if (E_b - E_a) * (cost - cost_b) >= (kept - E_b) * (cost_b - cost_a) * (1 - EQUAL):
                break
            hull.pop()
        hull.append((option, cost, kept))
    steps, least = [], 0.0
    for (low, cost_a, E_a), (high, cost_b, E_b) in zip(hull[-2::-1], hull[:0:-1], strict=True):
        lost = (E_b - E_a) / E_b if E_b > E_a else 0.0
        saved = cost_b - cost_a
        ratio = lost / saved if saved > 0 else np.inf if lost > 0 else 0.0
        least = max(least, ratio)
        steps.append((least, high, low))
    return steps


def _at_rungs(candidate: Candidate, of_O: np.ndarray) -> np.ndarray:
    """A number of every option, at its rung and those below that are not options; dense last, `(rungs + 1,)`."""
    rungs = [candidate.profile.rungs + 1 if rung is None else rung for rung in candidate.rungs]
    rungs[-1] = candidate.profile.rungs + 1
    return np.repeat(of_O, np.diff([0, *rungs]))
