"""What became of every layer of a dense network, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.edits import Edit, Factorize, KeepChannels, ToSVD, edits_of
from lowrank_exp.files.results import LayerResult
from lowrank_exp.network.cost import LayerCost, network_cost
from lowrank_exp.network.shapes import by_shapes
from lowrank_exp.pruning.gradients import WITHOUT_GRADIENT
from lowrank_exp.pruning.graph import channel_graph
from lowrank_exp.rank import Plan
from lowrank_exp.replacing import trial
from lowrank_exp.svd_form.profile import not_in_form


def layer_results(
    dense: nn.Module,
    network: nn.Module,
    example: Tensor,
    plan: Plan | None = None,
    brought: Sequence[Edit] = (),
    losses: Mapping[str, Mapping[str, float]] | None = None,
) -> list[LayerResult]:
    """Every layer of the dense network: what it cost, what became of it, and why.

    Args:
        dense: as its constructor makes it.
        network: what phases have made of it.
        example: `(N, C, ...)`.
        plan: the last one that was carried out; None: none was.
        brought: edits that the network came with, from its weights file.
        losses: of layers that were decomposed once, by name, see `layer_losses`.
    """
    before, after = (by_shapes(network_cost, model, example).every for model in (dense, network))
    factorized = [edit for edit in edits_of(network) if isinstance(edit, Factorize | ToSVD)]
    staying = _find_staying(network, example, brought) | (
        _find_not_in_form(network, example, factorized, brought) if plan is None else {}
    )
    rows = []
    for name, cost in before.items():
        parts = [part for inner, part in after.items() if f"{inner}.".startswith(f"{name}.")]
        edits = [edit for edit in factorized if f"{edit.layer}.".startswith(f"{name}.")]
        ranks = [_find_rank_left(edit, network) for edit in edits]
        pruned = _describe_pruning(name, network, cost, brought)
        rows.append(
            LayerResult(
                name,
                edits[0].decomposition if edits else None,
                ranks if len(ranks) > 1 else ranks[0] if ranks else None,
                cost.macs,
                sum(part.macs for part in parts),
                cost.weights,
                sum(part.weights for part in parts),
                cost.channels,
                parts[-1].channels if parts else 0,
                _explain(name, edits, plan, brought, pruned or staying.get(name, "")),
                **((losses or {}).get(name, {}) | _find_cut(name, plan) if _is_decomposed_once(name, edits) else {}),
                **_find_bytes(name, edits, plan, pruned),
            )
        )
    return rows


def _is_decomposed_once(name: str, edits: Sequence[Factorize | ToSVD]) -> bool:
    """Whether a layer of the dense network itself was decomposed, and no factor of it again."""
    return len(edits) == 1 and edits[0].layer == name


def _find_cut(name: str, plan: Plan | None) -> dict[str, Any]:
    """The full rank of a layer that the plan decomposes, and the singular values that its rank cuts."""
    planned = None if plan is None else plan.layers.get(name)
    if planned is None or planned.rank is None:
        return {}
    full = list(planned.full_rank) if isinstance(planned.full_rank, tuple) else planned.full_rank
    return {"full_rank": full, "spectrum": planned.spectrum}


def _find_bytes(name: str, edits: Sequence[Factorize | ToSVD], plan: Plan | None, pruned: str) -> dict[str, int]:
    """The bytes of a layer's weights as the plan has counted them, where it is as the plan has left it."""
    planned = None if plan is None else plan.layers.get(name)
    if planned is None or not planned.bytes_before or pruned or (edits and not _is_decomposed_once(name, edits)):
        return {}
    return {"bytes_before": planned.bytes_before, "bytes_after": planned.bytes_after}


def _explain(
    name: str, edits: Sequence[Factorize | ToSVD], plan: Plan | None, brought: Sequence[Edit], pruned: str
) -> str:
    if len(edits) > 1:
        return "decomposed more than once: " + ", ".join(f"{edit.layer} at rank {edit.rank}" for edit in edits)
    if edits and edits[0] in brought:
        return "as in the weights file"
    if edits and isinstance(edits[0], ToSVD):
        return "in SVD form, not truncated"
    planned = plan.layers.get(name) if plan is not None else None
    if planned is None:
        return pruned or "no phase decomposes it"
    return f"{planned.reason}; {pruned}" if pruned else planned.reason


def _describe_pruning(name: str, network: nn.Module, dense: LayerCost, brought: Sequence[Edit]) -> str:
    """What phases have left of a layer of the dense network, or of its factors; empty: all of it."""
    removals = [edit for edit in edits_of(network) if isinstance(edit, KeepChannels) and edit not in brought]
    left: dict[str, int] = {}
    for edit in removals:
        if edit.layer == name and edit.inputs is not None:
            left["inputs"] = len(edit.inputs)
        if edit.layer == name and edit.out is not None:
            left[f"of {dense.channels} filters"] = len(edit.out)
        if edit.layer.startswith(f"{name}.") and edit.out is not None:
            left[f"filters of {edit.layer}"] = len(edit.out)
    parts = [f"{count} {what}" for what, count in sorted(left.items(), key=lambda item: item[0] == "inputs")]
    return f"pruning left {' and '.join(parts)}" if parts else ""


def _find_staying(network: nn.Module, example: Tensor, brought: Sequence[Edit]) -> dict[str, str]:
    """The layers that pruning has gone around because no gradient reaches them, and that this is so."""
    if not any(isinstance(edit, KeepChannels) and edit not in brought for edit in edits_of(network)):
        return {}
    layers = channel_graph(network, example).without_gradient
    return dict.fromkeys(layers, f"pruning goes around it: {WITHOUT_GRADIENT}")


def _find_not_in_form(
    network: nn.Module, example: Tensor, factorized: Sequence[Factorize | ToSVD], brought: Sequence[Edit]
) -> dict[str, str]:
    """Where a phase has put layers into SVD form, that the others are not, and why those that could not be."""
    if not any(isinstance(edit, ToSVD) and edit not in brought for edit in factorized):
        return {}
    refused = by_shapes(trial, network, example)
    return {name: not_in_form(refused.get(name)) for name, _ in network.named_modules()}


def _find_rank_left(edit: Factorize | ToSVD, network: nn.Module) -> int | list[int]:
    """The rank of a decomposed layer, less what pruning has taken of the channels between its factors."""
    rank, inside = edit.rank, f"{edit.layer}."
    if any(isinstance(cut, KeepChannels) and cut.layer.startswith(inside) for cut in edits_of(network)):
        kind = decomposition_named(edit.decomposition, **edit.options)
        rank = kind.rank_left(network.get_submodule(edit.layer), rank)
    return list(rank) if isinstance(rank, tuple) else rank
