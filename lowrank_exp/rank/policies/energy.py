"""Energy: what a layer keeps of its singular values decides on its rank.

Legend: s singular values of a layer, E(r) their energy up to rank r as a share of all of it, C cost.
"""

import numpy as np

from lowrank_exp.checks import fraction, is_whole, one_of
from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.fitting.energy import energy_of
from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.drops import drop_to_budget
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.losses import kept, measured_for

RULES = ("share", "product")


@declares(looks_at=measured_for)
def energy(
    problem: Problem, *, share: float | None = None, power: int = 2, rule: str = "share", metric: str | None = None
) -> dict[str, Rank | None]:
    r"""Ranks by the energy that they keep: the same share in all layers, or the largest product over layers.

    .. math:: E_l(r) = \frac{\sum_{i \le r} s_{l,i}^p}{\sum_i s_{l,i}^p}

    Rule `share`: the smallest ranks that keep `share`, or the largest share that a budget allows.

    .. math:: r_l = \min \{ r : E_l(r) \ge \text{share} \}

    Rule `product`: maximise the product of all E_l under a budget, greedily. Every layer starts at its highest option,
    mostly dense, with E = 1; the drop that loses least energy for what it saves is taken again and again until the
    budget holds:

    .. math:: \min_{l, \, r' < r_l} \frac{(E_l(r_l) - E_l(r')) / E_l(r_l)}{C_l(r_l) - C_l(r')}

    With metric `response` E is the energy of the layer's responses that the factors keep after their fit, 1 - the
    response error, for any decomposition; `share` then leaves no layer with more than one error.

    Args:
        problem: candidates and budget.
        share: in (0, 1]; None where a budget decides.
        power: p, 2 for squared singular values, 1 for plain ones.
        rule: `share` or `product`.
        metric: None, the singular values of the weight, or `response` (`with_errors` with images).

    Raises:
        ValueError: both or neither of share and a budget are given, or an option is out of range; power 1 where a
            decomposition has no singular values or with a metric; a layer without the response errors that the metric
            needs; no reachable cost meets the budget.

    Source: `share`: the baseline SVD-Energy of Liebenwein, Maalouf, Feldman, Rus 2021, "Compressing neural networks:
    towards determining the optimal layer-wise decomposition" (ALDS). `product`: the rank selection of Zhang, Zou, He,
    Sun 2015, "Accelerating very deep convolutional networks for classification and detection".

    Differs from the paper (product):
        1. Energies are those of the weight; the paper's are eigenvalues of a layer's responses to images, as metric
           `response` has them.
        2. Costs are those of the factors, and dense is an option beside them; in the paper a layer costs r / full rank
           of what it costs dense. So drops may pass over ranks, see `lowrank_exp.rank.drops`, which has what is done
           under several bounds and with what is left of them.
    """
    one_of("rule", rule, RULES)
    if metric is not None:
        one_of("metric", metric, ("response",), f"metric={metric!r} is not known: null (singular values) or response")
    if not is_whole(power, 1, 2):
        raise ValueError(f"power={power!r} is neither 2 (squared singular values) nor 1 (plain ones)")
    if metric is not None and power != 2:
        raise ValueError(f"power=1 adds up singular values, and metric={metric!r} has none: set power to 2")
    energies = {
        c.profile.name: kept(c.profile, metric) if metric else _energy_at_rungs(c.profile, power)
        for c in problem.candidates
    }

    def rung_at(layer: LayerProfile, wanted: float) -> int:
        # A share of exactly one means every direction that the arithmetic can tell from zero.
        return min(int(np.searchsorted(energies[layer.name], wanted * (1 - 1e-12))) + 1, layer.rungs)

    def level(layer: LayerProfile) -> np.ndarray:
        return np.concatenate([[0.0], energies[layer.name][:-1]])

    if rule == "product":
        _check_product(problem, share)
        options = drop_to_budget(problem, energies, relative=True)
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
