"""Into SVD form: layers of a network become `U diag(s) V` with all three trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition import Decomposition, Decompositions, SVDDecomposition
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.edits import ToSVD, replace_
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.names import by_layer
from lowrank_exp.replacing import trial, untried
from lowrank_exp.svd_form.layers import SVDForm, form_refusal

WantedRank = int | float | None


def to_svd_(
    model: nn.Module,
    decomposition: "str | Decomposition | Mapping | Decompositions" = "channel_svd",
    rank: WantedRank | Mapping[str, WantedRank] = None,
    layers: Sequence[str] | None = None,
    *,
    store: SVDStore | None = None,
    example_input: Tensor | None = None,
) -> nn.Module:
    """Put layers of `model` into SVD form, in place; at full rank its output stays what it is.

    Args:
        model: any network.
        decomposition: `channel_svd`, `spatial_svd`, an object, or a mapping with `conv`, `linear` (linear SVD unless
            said otherwise) and `layers` (exceptions by name); None leaves alone.
        rank: None: full; an int; a fraction of the full rank, in (0, 1], rounded, at least 1 - so 1.0 is full and 1 is
            rank one; or a mapping of names or `re:` patterns to these, where layers not named get the full rank.
        layers: names or `re:` patterns of the layers wanted; None: all that the decomposition takes and that can be
            replaced. The others stay as they are.
        store: where SVDs are kept; None computes what the ranks need.
        example_input: what the network is tried on, see `lowrank_exp.replacing.trial`; None: as `factorize_` does.

    Returns:
        The same `model`.

    Raises:
        ValueError: a name that does not exist, a rank out of range, a layer that cannot be replaced or has no such
            form, a weight that is not finite. The model is then as it was before.

    >>> net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(6, 4))
    >>> [form.rank for form in to_svd_(net, "channel_svd", rank=0.5)]
    [4, 2]
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    kinds = Decompositions.of(decomposition).by_layer(modules)
    reasons = untried(model, modules) if example_input is None else trial(model, example_input)
    named = modules if layers is None else by_layer(dict.fromkeys(layers), modules, "layers")
    wanted = {name: kind for name in named if (kind := kinds[name]) is not None}
    refused = {n: reasons.get(n) or form_refusal(modules[n], kind) for n, kind in wanted.items()}
    if layers is None:
        wanted = {n: kind for n, kind in wanted.items() if not (reasons.get(n) or _no_svd(modules[n], kind))}
    if not wanted:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or list(modules)
        raise ValueError(f"none of the layers of this network is to be put into SVD form: {reasons}")
    ranks = by_layer(rank, wanted, "rank") if isinstance(rank, Mapping) else dict.fromkeys(wanted, rank)
    for name, kind in wanted.items():
        if refused[name]:
            raise ValueError(f"{name} cannot be put into SVD form: {refused[name]}")
        kind.check_weight(modules[name], name)
    checked = {name: _rank(name, modules[name], kind, ranks.get(name)) for name, kind in wanted.items()}
    forms = {
        name: SVDForm.from_dense(modules[name], kind, checked[name], store(kind, modules[name]) if store else None)
        for name, kind in wanted.items()
    }
    for name, form in forms.items():
        replace_(model, name, form, [ToSVD(name, form.decomposition.name, form.rank, form.decomposition.options())])
    return model


def _no_svd(layer: nn.Module, kind: Decomposition) -> bool:
    """Whether `kind` is a decomposition by one SVD that does not take layers like this one."""
    return isinstance(kind, SVDDecomposition) and kind.refusal(layer) is not None


def _rank(name: str, layer: nn.Module, kind: SVDDecomposition, rank: Any) -> int:
    full = kind.full_rank(layer)
    if rank is None:
        return full
    if not isinstance(rank, float):
        return kind.check_rank(layer, rank, name)
    if not 0 < rank <= 1:
        raise ValueError(f"{name}: a rank with a point is a fraction of the full rank, in (0, 1], got {rank}")
    return max(1, round(rank * full))
