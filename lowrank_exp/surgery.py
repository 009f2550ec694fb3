"""Edits as data: plain records of what was done to a network, which can be written to a file and done again.

Replaying edits builds shapes only; the weights are loaded afterwards. The same list serves saving, loading, resuming
and reporting. It travels with the network as the plain list `model.lowrank_edits`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from lowrank_exp.cost import LAYERS
from lowrank_exp.decomposition import Decomposition, Decompositions, SVDDecomposition, named, refusals
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.rank.names import by_layer
from lowrank_exp.rank.plan import Plan


@dataclass(frozen=True)
class Factorize:
    """A layer was replaced by the factors of a decomposition at a rank."""

    layer: str
    decomposition: str
    rank: int
    options: dict[str, Any] = field(default_factory=dict)


def factorize_(
    model: nn.Module,
    plan: Plan | Mapping[str, int | None],
    decomposition: "str | Decomposition | Mapping | Decompositions" = "spatial_svd",
    *,
    store: SVDStore | None = None,
) -> nn.Module:
    """Replace layers of `model` by their factors, in place.

    Args:
        model: any network. Each replaced layer becomes an `nn.Sequential` of plain layers under the same name.
        plan: a `Plan`, or a mapping of names or `re:` patterns to ranks (None: leave alone; unnamed: leave alone).
        decomposition: what a mapping's layers get; a plan carries its own.
        store: where SVDs are kept.

    Returns:
        The same `model`.

    Raises:
        ValueError: a name that does not exist, a rank out of range, a layer that cannot be replaced, a weight that is
            not finite. The model is then as it was before.

    >>> net = nn.Sequential(nn.Linear(6, 4))
    >>> factorize_(net, {"0": 2})[0]
    Sequential(
      (0): Linear(in_features=6, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=4, bias=True)
    )
    """
    reasons = refusals(model)
    modules = dict(model.named_modules())
    wanted = _wanted(model, plan, Decompositions.of(decomposition))
    for name, (kind, rank) in wanted.items():
        if refusal := reasons.get(name) or kind.refusal(modules[name]):
            raise ValueError(f"{name} cannot be decomposed by {kind.name}: {refusal}")
        kind.check_rank(modules[name], rank, name)
        kind.check_weight(modules[name], name)

    store = store or SVDStore()
    chains = {}  # all of them, before the first one takes its place
    for name, (kind, rank) in wanted.items():
        layer = modules[name]
        known = (store(kind, layer),) if isinstance(kind, SVDDecomposition) else ()
        chains[name] = kind.factorize(layer, rank, *known)
    for name, (kind, rank) in wanted.items():
        model.set_submodule(name, chains[name])
        _remember(model, Factorize(name, kind.name, int(rank), kind.options()))
    return model


def replay_(model: nn.Module, edits: Sequence[Factorize]) -> nn.Module:
    """Give `model` the shapes that `edits` left behind, in place; weights of replaced layers are not set.

    Raises:
        ValueError: an edit names a layer that `model` does not have, or that has another shape.
    """
    for edit in edits:
        kind = named(edit.decomposition, **edit.options)
        layer = dict(model.named_modules()).get(edit.layer)
        if layer is None:
            raise ValueError(f"the edit of {edit.layer!r} fits no layer of this network: it is another network")
        if refusal := kind.refusal(layer):
            raise ValueError(f"the edit of {edit.layer!r} does not fit: {refusal}")
        kind.check_rank(layer, edit.rank, edit.layer)
        model.set_submodule(edit.layer, kind.skeleton(layer, edit.rank).train(layer.training))
        _remember(model, edit)
    return model


def replay_to_plan_(model: nn.Module, plan: Plan) -> nn.Module:
    """Give `model` the shapes of `plan`, in place, without computing any weight."""
    planned = plan.layers.items()
    edits = [Factorize(n, l.decomposition, l.rank, l.options) for n, l in planned if l.rank is not None]
    return replay_(model, edits)


def edits_of(model: nn.Module) -> list[Factorize]:
    """What was done to `model`, in order."""
    return list(model.__dict__.get("lowrank_edits", ()))


def to_records(edits: Sequence[Factorize]) -> list[dict[str, Any]]:
    """Edits as plain dictionaries, for a file."""
    return [{"edit": type(edit).__name__, **asdict(edit)} for edit in edits]


def from_records(records: Sequence[Mapping[str, Any]]) -> list[Factorize]:
    """Edits from plain dictionaries.

    Raises:
        ValueError: an edit that this version does not know.
    """
    edits = []
    for record in records:
        content = dict(record)
        if (kind := content.pop("edit", None)) != Factorize.__name__:
            raise ValueError(f"unknown edit {kind!r}; this version knows {Factorize.__name__}")
        try:
            edits.append(Factorize(**content))
        except TypeError as error:
            raise ValueError(f"the edit {content} is not one of this version: {error}") from error
    return edits


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device: shapes without numbers."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    memo |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _wanted(
    model: nn.Module, plan: Plan | Mapping[str, int | None], decompositions: Decompositions
) -> dict[str, tuple[Decomposition, int]]:
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    if isinstance(plan, Plan):
        by_layer(plan.ranks, modules, "the plan")
        planned = {name: layer for name, layer in plan.layers.items() if layer.rank is not None}
        return {name: (named(layer.decomposition, **layer.options), layer.rank) for name, layer in planned.items()}
    layers = {name: decompositions.for_layer(module) for name, module in modules.items()}
    wanted = {}
    for name, rank in by_layer(plan, layers, "the mapping of ranks").items():
        if rank is None:
            continue
        kind = layers[name]
        if kind is None:
            raise ValueError(f"{name} has rank {rank}, but no decomposition is given for layers of its kind")
        wanted[name] = (kind, rank)
    return wanted


def _remember(model: nn.Module, edit: Factorize) -> None:
    model.lowrank_edits = [*edits_of(model), edit]
