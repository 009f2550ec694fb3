"""The profile of a network: what each layer would cost and keep at each rank. The policies see nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from lowrank_exp.decomposition import Decomposition, Decompositions, SVDDecomposition
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.network.cost import OUTSIDE, LayerCost, check_network, network_cost
from lowrank_exp.network.names import by_layer
from lowrank_exp.network.records import has_edits
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.offer import Cost, Offer
from lowrank_exp.rank.timed import with_times
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.replacing import trial, unsafe
from lowrank_exp.runtime import Runtime


def profile(
    model: nn.Module,
    example_input: Tensor,
    decomposition: "str | Decomposition | Sequence | Mapping | Decompositions" = "spatial_svd",
    *,
    store: SVDStore | None = None,
    runtime: str | Runtime | None = None,
    batch_size: int = 1,
    times: TimeStore | None = None,
) -> dict[str, LayerProfile]:
    """Measure every convolution and linear layer of `model` once, in network order.

    Two forward passes of one image try whether each may be replaced, see `lowrank_exp.replacing.trial`: a layer without
    which the network would fail or compute something else gets a `refusal` that says why.

    Behind them stands what no layer computes, under the names of `lowrank_exp.network.cost.OUTSIDE` and with a refusal,
    where there is such: convolutions called as functions, layers in plain lists. A budget counts them. Warns where
    torch counts still more, in products inside attention.

    Args:
        model: any network that takes one tensor; it is not changed. On the meta device the costs are exact and every
            singular value is 1.
        example_input: `(N, ...)`; costs are for one image.
        decomposition: a name, an object, or a mapping with `conv`, `linear` (linear SVD beside a convolution's
            decomposition unless said otherwise) and `layers` (exceptions by name); None leaves alone. A list of names
            or objects lets the policies `knapsack` and `alds` choose among them, layer by layer.
        store: where SVDs are kept for later use; None computes singular values alone.
        runtime: with it every option is timed on that runtime (eager, compile, onnxruntime, openvino), for budgets of
            time; see `lowrank_exp.with_times`. Ladders then have the ranks alone at which the time falls.
        batch_size: images in one forward pass when times are measured; MACs are those of one.
        times: where times are kept, so that none is measured twice.

    Raises:
        ValueError: an unknown decomposition, a weight that is not finite, an example input that does not suit the
            network, a bare layer or TorchScript as model.

    >>> import torch
    >>> layers = profile(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8), "channel_svd")
    >>> layers["0"].full_rank, layers["0"].r_max, layers["0"].rank_weights[:2].tolist()
    (8, 6, [35, 70])
    """
    chosen = Decompositions.of(decomposition)
    check_network(model)
    unsafe(model)  # a bare layer ends here
    cost = network_cost(model, example_input)
    cost.warn()
    costs, reasons = cost.layers, trial(model, example_input)
    modules = {name: module for name, module in model.named_modules() if name in costs}
    kinds = chosen.choices(modules)
    exceptions = by_layer(chosen.layers, modules, "decomposition.layers")
    reasons = {n: "left alone by decomposition.layers" for n, kinds in exceptions.items() if not kinds} | reasons
    layers = {name: _layer(modules[name], one, kinds[name], reasons.get(name), store) for name, one in costs.items()}
    if has_edits(model):
        layers = {name: replace(layer, compressed=True) for name, layer in layers.items()}
    layers |= {name: _outside(kind, cost.outside[name]) for kind, name in OUTSIDE.items() if name in cost.outside}
    if runtime is None:
        return layers
    return with_times(layers, model, example_input, runtime, batch_size=batch_size, times=times)


def _outside(kind: str, cost: LayerCost) -> LayerProfile:
    """What no layer computes: a budget counts it, nothing can make it cheaper."""
    dense = Cost(cost.macs, cost.weights)
    return LayerProfile(cost.name, kind, dense, refusal="no layer of the network computes them", tried=True)


def _layer(
    layer: nn.Module,
    cost: LayerCost,
    decompositions: Sequence[Decomposition],
    refusal: str | None,
    store: SVDStore | None,
) -> LayerProfile:
    """The layer with an offer of every decomposition that can be done; or why none can."""
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    dense = Cost(cost.macs, cost.weights, cost.weights * layer.weight.element_size())
    why_not = {one: refusal or one.refusal(layer) for one in decompositions}
    if possible := [one for one, reason in why_not.items() if not reason]:
        shape = LayerShape.of(layer, cost.input_shapes)
        offers = tuple(_offer(layer, cost.name, shape, one, store) for one in possible)
        return LayerProfile(cost.name, kind, dense, offers, shape=shape, tried=True)
    reasons = dict.fromkeys(why_not.values()) or [refusal or f"no decomposition is configured for {kind} layers"]
    return LayerProfile(cost.name, kind, dense, refusal="; ".join(reasons), tried=True)


def _offer(
    layer: nn.Module, name: str, shape: LayerShape, decomposition: Decomposition, store: SVDStore | None
) -> Offer:
    decomposition.check_weight(layer, name)
    ladder, meta = decomposition.ladder(layer), layer.weight.is_meta
    singular_values = _singular_values(layer, decomposition, len(ladder), store)
    kept, tables = np.zeros(0), ()
    if meta and not singular_values.size:
        kept = np.arange(1, len(ladder) + 1) / len(ladder)
    elif not singular_values.size:
        tables = decomposition.kept_tables(layer)
        kept = decomposition.kept_at(tables, ladder) if tables else decomposition.energies(layer, ladder)
    return Offer(
        decomposition.name,
        range(1, len(ladder) + 1) if ladder == list(range(1, len(ladder) + 1)) else tuple(ladder),
        shape.costs(decomposition, ladder),
        singular_values,
        decomposition.options(),
        kept,
        tables,
        _unfoldings(layer, decomposition, singular_values),
        decomposition.saves,
        decomposition.input_groups,
        decomposition.ladder_follows_weights,
        made_up=meta,
    )


def _singular_values(layer: nn.Module, decomposition: Decomposition, rungs: int, store: SVDStore | None) -> np.ndarray:
    """Those of an SVD, `(G, rungs)`; all 1 on the meta device. `(1, 0)` of another decomposition."""
    if not isinstance(decomposition, SVDDecomposition):
        return np.zeros((1, 0))
    if layer.weight.is_meta:
        return np.ones((1, rungs))
    values = store(decomposition, layer).S_GR if store is not None else decomposition.singular_values(layer)
    return values.cpu().numpy()


def _unfoldings(
    layer: nn.Module, decomposition: Decomposition, singular_values: np.ndarray
) -> tuple[tuple[np.ndarray, int], ...]:
    """`decomposition.unfoldings(layer)`; of an SVD its singular values are known already, of a meta layer none."""
    if layer.weight.is_meta:
        return ((np.zeros((1, 0)), 0),) * decomposition.cuts
    if isinstance(decomposition, SVDDecomposition):
        return ((singular_values, max(decomposition.matrices(layer).shape[1:])),)
    return decomposition.unfoldings(layer)
