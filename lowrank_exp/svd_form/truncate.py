r"""Out of SVD form: small singular values are cut off, and plain layers remain.

Legend: G groups, R rank of a form, s its singular values, k how many of them are kept in each group.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lowrank_exp.checks import fraction, one_of, positive
from lowrank_exp.decomposition import SVD
from lowrank_exp.decomposition.base import fill_
from lowrank_exp.edits import Factorize, ToSVD, replace_
from lowrank_exp.network.cost import LAYERS, LayerCost, network_cost, out_channels
from lowrank_exp.network.names import by_layer
from lowrank_exp.network.subnormals import clear_factors_
from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.replacing import trial, unsafe
from lowrank_exp.svd_form.layers import SVDForm
from lowrank_exp.svd_form.profile import dense_copy, forms_of, not_in_form
from lowrank_exp.svd_form.spectrum import check_spectrum, sorted_svd, spectrum

EMPTY = ("keep_one", "refuse")
COSTLY = ("dense", "truncate")


def truncate_(
    model: nn.Module,
    ranks: Plan | Mapping[str, int | None] | None = None,
    *,
    energy: float | None = None,
    threshold: float | None = None,
    by: str = "resvd",
    empty: str = "keep_one",
    costly: str = "dense",
    layers: Sequence[str] = ("re:.*",),
    example_input: Tensor | None = None,
) -> Plan:
    r"""Turn SVD forms into plain layers at the ranks that a rule gives, in place.

    Exactly one of `ranks`, `energy` and `threshold` says how many singular values k each layer keeps:

    .. math:: \text{energy } e: \; k = \min \Big\{ k : \sum_{i \le k} s_i^2 \ge (1 - e) \sum_i s_i^2 \Big\}, \qquad
        \text{threshold } t: \; k = \# \{ i : |s_i| > t \}

    with s in falling order. Of a layer with groups every group keeps k: by energy the sums go over all groups, by
    threshold k is that of the group which keeps most.

    Args:
        model: a network with SVD forms.
        ranks: a plan, from `allocate(profile_svd(model, x), ...)` with any policy, or ranks by name or `re:` pattern.
            None as a rank leaves dense, and so does not being named. They are obeyed, with a warning where dense would
            be cheaper.
        energy: the share of the sum of squares that may be removed, in [0, 1).
        threshold: values up to it are removed.
        by: `resvd` takes the singular values of the product U diag(s) V, and its best approximation at k. `by_s` takes
            the absolute values of s and keeps those entries as they are, with their vectors, as the paper does; learned
            U and V are not quite orthonormal, so its error is larger.
        empty: a layer of which no value would be kept: `keep_one` keeps it at rank 1, and the plan says so; `refuse`
            raises.
        costly: a layer whose two factors would not be cheaper than the dense layer: `dense` multiplies the product out,
            all of it, and the plan says so; `truncate` does as the rule says. Ranks given by hand are not looked at.
            Weights of either that are subnormal are set to zero, with a warning that counts them.
        layers: names or `re:` patterns of the SVD forms to be turned into plain layers; the others stay.
        example_input: `(N, ...)`; then "cheaper" is by MACs and the plan has them. Without, it is by weights.

    Returns:
        The plan that was carried out, of all convolutions and linear layers.

    Raises:
        ValueError: not exactly one rule, a number out of its range, a name of no SVD form, a rank above that of the
            form, a layer that would be emptied. The model is then as it was before.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks via singular vector orthogonality regularization
    and singular value sparsification", section 3.3; the energy rule as in the authors' code.

    Differs from the paper:
        1. `resvd` is the default; the paper's is `by_s`.
        2. A layer with all values at zero stops the authors' code; see `empty`.
        3. A layer that would cost more than before is left dense; the authors' code factors it all the same.

    >>> from lowrank_exp.svd_form.convert import to_svd_
    >>> net = to_svd_(nn.Sequential(nn.Linear(6, 4)))
    >>> truncate_(net, {"0": 2}).ranks, net[0]
    ({'0': 2}, Sequential(
      (0): Linear(in_features=6, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=4, bias=True)
    ))
    """
    check_spectrum(by)
    _check_rule(ranks, energy, threshold)
    for name, value, allowed in (("empty", empty, EMPTY), ("costly", costly, COSTLY)):
        one_of(name, value, allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    everything = forms_of(model)
    if not everything:
        raise ValueError("no layer of this network is in SVD form: there is nothing to truncate")
    forms = {name: everything[name] for name in by_layer(dict.fromkeys(layers), everything, "layers")}
    if ranks is None:
        chosen = {name: _rank_by_rule(name, form, by, energy, threshold, empty) for name, form in forms.items()}
    else:
        chosen = _ranks_by_hand(forms, ranks)
    costs, refused = _costs(model, example_input)
    planned = {name: _leave_dense(one, "it stays in SVD form") for name, one in costs.items() if name in everything}
    for name, (rank, reason) in chosen.items():
        planned[name] = _plan_layer(costs[name], forms[name], rank, reason)
        after, before, unit = _costs_to_compare(planned[name], example_input)
        if rank is None or after < before:
            continue
        cost = f"rank {rank} has {after:,} of {before:,} {unit}"
        if ranks is not None:
            warnings.warn(f"{name}: {cost}: not cheaper than the dense layer", stacklevel=2)
        elif costly == "dense":
            planned[name] = _plan_layer(costs[name], forms[name], None, f"not cheaper than dense: {cost}")
    plain = {name: _plain(forms[name], planned[name].rank, by) for name in chosen}
    clear_factors_(plain.values())
    for name, layer in plain.items():
        rank, kind = planned[name].rank, forms[name].decomposition
        made = [] if rank is None else [Factorize(name, kind.name, rank, kind.options())]
        replace_(model, name, layer, made, undone=ToSVD)
    others = {name: _leave_dense(one, not_in_form(refused.get(name))) for name, one in costs.items()}
    policy = "energy" if energy is not None else "threshold" if threshold is not None else _policy(ranks)
    return Plan({name: planned.get(name, others[name]) for name in costs}, policy)


def kept_by_energy(values_GR: np.ndarray, energy: float) -> int:
    """The fewest values of each group whose squares sum up to all but a share `energy`; 0 where all are zero.

    >>> kept_by_energy(np.array([[3.0, 2.0, 1.0]]), 0.08), kept_by_energy(np.array([[3.0, 2.0, 1.0]]), 0.07)
    (2, 3)
    """
    sums_R = np.cumsum((values_GR.astype(np.float64) ** 2).sum(axis=0))
    if sums_R[-1] == 0:
        return 0
    return int(np.argmax(sums_R >= (1 - energy) * sums_R[-1])) + 1


def kept_by_threshold(values_GR: np.ndarray, threshold: float) -> int:
    """How many values of a group are above `threshold`, at most.

    >>> kept_by_threshold(np.array([[3.0, 2.0, 1.0], [1.5, 0.5, 0.0]]), 1.0)
    2
    """
    return int((values_GR > threshold).sum(axis=1).max())


def _rank_by_rule(
    name: str, form: SVDForm, by: str, energy: float | None, threshold: float | None, empty: str
) -> tuple[int, str]:
    """The rank by a rule, and the reason."""
    # On the meta device there are no numbers; a flat spectrum stands for them, as in a profile.
    values_GR = np.ones((form.groups, form.rank)) if form.s.is_meta else spectrum(form, by).cpu().numpy()
    if energy is not None:
        k, reason = kept_by_energy(values_GR, energy), f"energy removed up to {energy:g}, {by}"
    else:
        k, reason = kept_by_threshold(values_GR, threshold), f"singular values above {threshold:g}, {by}"
    if k:
        return k, reason
    if empty == "refuse":
        raise ValueError(
            f"{name} would be emptied: its largest singular value is {values_GR.max():g} ({by}). Take a smaller "
            "threshold, a smaller weight of the penalty on s, or empty='keep_one'"
        )
    return 1, f"kept at rank 1, for it would be emptied: {reason}, and its largest value is {values_GR.max():g}"


def _ranks_by_hand(
    forms: Mapping[str, SVDForm], ranks: Plan | Mapping[str, int | None]
) -> dict[str, tuple[int | None, str]]:
    """Ranks set by hand or by a plan, with the reasons."""
    if isinstance(ranks, Plan):
        _check_plan(forms, ranks)
        named, reasons = {n: ranks[n] for n in forms if n in ranks}, {n: ranks.layers[n].reason for n in ranks}
    else:
        named, reasons = by_layer(ranks, forms, "ranks"), {}
    chosen: dict[str, tuple[int | None, str]] = {}
    for name, form in forms.items():
        if (rank := named.get(name)) is None:
            by_hand = "left dense by hand" if name in named else "not named in ranks"
            chosen[name] = None, reasons.get(name, by_hand)
            continue
        rank = form.decomposition.check_rank(form.like, rank, name)
        if rank > form.rank:
            raise ValueError(f"{name}: rank {rank} is above that of its SVD form, {form.rank}")
        chosen[name] = rank, reasons.get(name, "set by hand")
    return chosen


def _check_plan(forms: Mapping[str, SVDForm], plan: Plan) -> None:
    for name, layer in plan.layers.items():
        if layer.rank is None:
            continue
        if name not in forms:
            raise ValueError(f"the plan has rank {layer.rank} for {name}, which is not in SVD form")
        kind = forms[name].decomposition
        if (layer.decomposition, layer.options) != (kind.name, kind.options()):
            raise ValueError(
                f"the plan decomposes {name} by {layer.decomposition} {layer.options or ''}, but its SVD form is one "
                f"by {kind.name} {kind.options() or ''}"
            )


def _costs(model: nn.Module, example_input: Tensor | None) -> tuple[dict[str, LayerCost], dict[str, str]]:
    """What every layer costs as a dense one, and why some cannot be replaced; no MACs without an example input."""
    dense = dense_copy(model)
    if example_input is not None:
        return network_cost(dense, example_input).every, trial(dense, example_input)
    layers = {name: layer for name, layer in dense.named_modules() if isinstance(layer, LAYERS)}
    costs = {name: LayerCost(name, 0, layer.weight.numel(), out_channels(layer), ()) for name, layer in layers.items()}
    return costs, unsafe(dense)


def _plan_layer(cost: LayerCost, form: SVDForm, rank: int | None, reason: str) -> PlannedLayer:
    size, kind, like = form.U.element_size(), form.decomposition, form.like
    if rank is None:
        return _leave_dense(cost, reason, size)
    weights = int(kind.rank_weights(like, [rank])[0])
    macs = int(kind.rank_macs(like, cost.input_shapes, [rank])[0]) if cost.input_shapes else 0
    costs = (cost.macs, macs, cost.weights, weights, size * cost.weights, size * weights)
    return PlannedLayer(rank, kind.name, reason, *costs, options=kind.options())


def _leave_dense(cost: LayerCost, reason: str, size: int = 4) -> PlannedLayer:
    """A layer that stays as it is."""
    weight_bytes = size * cost.weights
    costs = (cost.macs, cost.macs, cost.weights, cost.weights, weight_bytes, weight_bytes)
    return PlannedLayer(None, None, reason, *costs)


def _costs_to_compare(layer: PlannedLayer, example_input: Tensor | None) -> tuple[int, int, str]:
    if example_input is None:
        return layer.weights_after, layer.weights_before, "weights"
    return layer.macs_after, layer.macs_before, "MACs"


def _plain(form: SVDForm, rank: int | None, by: str) -> nn.Module:
    dense = form.dense()
    if rank is None:
        return dense
    chain = form.decomposition.skeleton(dense, rank)
    if form.s.is_meta:
        return chain.train(form.training)
    U_GMR, S_GR, V_GRN = sorted_svd(form, by)
    cut = SVD(U_GMR[:, :, :rank], S_GR[:, :rank], V_GRN[:, :rank])
    return fill_(chain, form.decomposition.unfold(dense, *cut.split(rank)), dense)


def _policy(ranks: Plan | Mapping) -> str:
    return ranks.policy if isinstance(ranks, Plan) else "fixed"


def _check_rule(ranks: Any, energy: float | None, threshold: float | None) -> None:
    options = {"ranks": ranks, "energy": energy, "threshold": threshold}
    rules = [name for name, value in options.items() if value is not None]
    if len(rules) != 1:
        raise ValueError(f"give exactly one of ranks, energy and threshold, got {' and '.join(rules) or 'none'}")
    if energy is not None:
        allowed = "it is the share of the sum of squares that is removed, in [0, 1)"
        fraction("energy", energy, f"energy={energy}, but {allowed}", zero=True, one=False)
    if threshold is not None:
        wrong = f"threshold={threshold}, but singular values are removed up to it: 0 or more"
        positive("threshold", threshold, wrong, zero=True)
