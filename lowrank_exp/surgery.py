"""Layers of a network replaced, and edits done again: the records of `edits`, written to a file and replayed.

Replaying edits builds shapes only; the weights are loaded afterwards. The same list serves saving, loading, resuming
and reporting.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition import (
    Decomposition,
    Decompositions,
    Rank,
    decomposition_named,
    recompose,
)
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.edits import (
    Bias,
    Edit,
    Factorize,
    KeepChannels,
    ToSVD,
    edits_of,
    remember,
    replace_,
    shape_of,
)
from lowrank_exp.network.cost import LAYERS, OUTSIDE, OUTSIDE_TIME, check_network, out_channels
from lowrank_exp.network.names import by_layer
from lowrank_exp.network.subnormals import clear_factors_
from lowrank_exp.pruning.cut import compose, cut_
from lowrank_exp.rank.plan import Plan
from lowrank_exp.reconstruct import adds_bias, check_fit, check_options, fit_refusal, fit_to_data
from lowrank_exp.replacing import trial, unsafe, untried
from lowrank_exp.svd_form.layers import SVDForm, form_refusal
from lowrank_exp.text.shown import shown


def factorize_(
    model: nn.Module,
    plan: Plan | Mapping[str, Rank | None],
    decomposition: "str | Decomposition | Mapping | Decompositions" = "spatial_svd",
    *,
    reconstruct: str | None = None,
    batches: Iterable | None = None,
    store: SVDStore | None = None,
    example_input: Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """Replace layers of `model` by their factors, in place.

    Args:
        model: any network. Each replaced layer becomes an `nn.Sequential` of plain layers under the same name (one
            layer with a codebook for product quantization). Weights of factors that are subnormal, with which CPUs
            compute slowly, are set to zero, with a warning that counts them.
        plan: a `Plan`, or a mapping of names or `re:` patterns to ranks (None: leave alone; unnamed: leave alone).
        decomposition: what a mapping's layers get; a plan carries its own.
        reconstruct: None fits the factors to the weights; `whitened`, `response` and `relu` fit them to data, see
            `lowrank_exp.reconstruct` for which fit exists for which decomposition. A layer fitted to its responses has
            a bias afterwards.
        batches: images to fit to: anything that gives tensors `(N, ...)`, or tuples that start with one, and that can
            be gone through several times.
        store: where SVDs are kept; None computes what the ranks need.
        example_input: what the network is tried on, see `lowrank_exp.replacing.trial`, before anything is replaced.
            None: a plan that `allocate` made of profiles was tried already; ranks by hand are tried on the meta device
            on an input whose size is guessed, or judged by what the network's structure and code tell.
        options: of the fit: `asymmetric`, `seed` and others, see `lowrank_exp.reconstruct.fit_to_data`.

    Returns:
        The same `model`.

    Raises:
        ValueError: a name that does not exist, a rank out of range, a layer that cannot be replaced, a weight that is
            not finite, a fit that does not exist. The model is then as it was before.

    >>> net = nn.Sequential(nn.Linear(6, 4))
    >>> factorize_(net, {"0": 2})[0]
    Sequential(
      (0): Linear(in_features=6, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=4, bias=True)
    )
    """
    check_network(model)
    modules = dict(model.named_modules())
    wanted = _resolve_ranks(model, plan, Decompositions.of(decomposition))
    reasons = _find_reasons(model, wanted, getattr(plan, "tried", False), example_input)
    for name, (kind, _) in wanted.items():
        if refusal := reasons.get(name) or kind.refusal(modules[name]):
            raise ValueError(f"{name} cannot be decomposed by {kind.name}: {refusal}")
        kind.check_weight(modules[name], name)
    wanted = {name: (kind, kind.check_rank(modules[name], rank, name)) for name, (kind, rank) in wanted.items()}

    if reconstruct is not None:
        if batches is None:
            raise ValueError(f"reconstruct={reconstruct!r} fits to data: pass batches of images")
        check_options(reconstruct, **options)
        chains = fit_to_data(model, wanted, batches, reconstruct, **options)
    elif given := [*(["batches"] if batches is not None else []), *sorted(options)]:
        raise ValueError(
            f"factorize_ got {', '.join(given)} without a fit to data: pass reconstruct as well. Options of a "
            "decomposition belong to its object, as in decomposition=ChannelSVD(order='pointwise_first')"
        )
    else:
        chains = _fit_to_weights(modules, wanted, store)
    clear_factors_(chains.values())
    for name, (kind, rank) in wanted.items():
        given_bias = modules[name].bias is None and any(key.endswith("bias") for key in chains[name].state_dict())
        made = Factorize(name, kind.name, rank, kind.options())
        replace_(model, name, chains[name], [Bias(name), made] if given_bias else [made])
    return model


def recompose_(model: nn.Module, layers: Sequence[str] = ("re:.*",)) -> nn.Module:
    """Turn factorized layers back into dense ones with the weight that their factors make together, in place.

    They can then be factorized at another rank, or by another decomposition, without the original network.

    Args:
        model: a network that `factorize_` or `load` gave.
        layers: names or `re:` patterns of the layers that were factorized; all by default.

    Raises:
        ValueError: a name of no factorized layer, or factors that no dense layer can do the work of.

    >>> net = nn.Sequential(nn.Linear(6, 4))
    >>> recompose_(factorize_(net, {"0": 2}))[0]
    Linear(in_features=6, out_features=4, bias=True)
    """
    factorized = {e.layer: None for e in edits_of(model) if isinstance(e, Factorize)}
    outermost = [name for name in factorized if not any(name.startswith(f"{other}.") for other in factorized)]
    if not outermost:
        raise ValueError("no layer of this network is factorized: there is nothing to recompose")
    dense = {}
    for name in by_layer(dict.fromkeys(layers), outermost, "recompose"):
        try:
            dense[name] = recompose(model.get_submodule(name))
        except ValueError as error:
            raise ValueError(f"{name} cannot be recomposed: {error}") from error
    edits = edits_of(model)
    for name, layer in dense.items():
        replace_(model, name, layer, _left_of_factors(edits, name, layer, model.get_submodule(name)), undone=Factorize)
    return model


def replay_(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Give `model` the shapes that `edits` left behind, in place; weights of replaced layers are not set.

    Raises:
        ValueError: an edit names a layer that `model` does not have, that has another shape or cannot be replaced.
    """
    reasons = unsafe(model) if any(isinstance(edit, Factorize | ToSVD) for edit in edits) else {}
    pending: dict[str, list[KeepChannels]] = {}  # not cut yet: a layer that lost channels many times is cut once
    for edit in edits:
        try:
            layer = model.get_submodule(edit.layer)
        except AttributeError:
            raise ValueError(
                f"the edit of {shown(edit.layer)} fits no layer of this network: it is another network"
            ) from None
        if isinstance(edit, KeepChannels):
            if edit.layer not in pending:
                pending[edit.layer], before = [], shape_of(layer)
            pending[edit.layer].append(edit)
            remember(layer, edit, before)
            continue
        if edit.layer in pending:
            cut_(layer, compose(pending.pop(edit.layer)))
        if isinstance(edit, Bias):
            _give_bias_(layer, edit)
        else:
            _replace_by_skeleton_(model, layer, edit, reasons.get(edit.layer))
    for name, kept in pending.items():
        cut_(model.get_submodule(name), compose(kept))
    return model


def replay_to_plan_(model: nn.Module, plan: Plan, fit: str | None = None, otherwise: str = "refuse") -> nn.Module:
    """Give `model` the shapes of `plan`, in place, without computing any weight.

    Args:
        model: as it was when the plan was made.
        plan: the ranks.
        fit: to data, by which layers may get a bias.
        otherwise: what becomes of layers for which there is no such fit, see `fit_to_data`.

    Raises:
        ValueError: the fit to data does not exist for a layer's decomposition.
    """
    modules, edits = dict(model.named_modules()), []
    for name, planned in plan.layers.items():
        if planned.rank is None:
            continue
        if fit is not None:
            kind = decomposition_named(planned.decomposition, **planned.options)
            if otherwise == "refuse":
                check_fit(fit, name, kind, modules[name], planned.rank)
            fitted = fit_refusal(modules[name], kind, planned.rank, fit) is None
            if fitted and modules[name].bias is None and adds_bias(fit):
                edits.append(Bias(name))
        edits.append(Factorize(name, planned.decomposition, planned.rank, planned.options))
    return replay_(model, edits)


def _give_bias_(layer: nn.Module, edit: Bias) -> None:
    if not isinstance(layer, LAYERS):
        raise ValueError(f"the edit of {edit.layer!r} gives a bias to a {type(layer).__name__}, which takes none")
    before = shape_of(layer)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(out_channels(layer)))
    remember(layer, edit, before)


def _replace_by_skeleton_(
    model: nn.Module, layer: nn.Module, edit: Factorize | ToSVD, unsafe_because: str | None
) -> None:
    kind = decomposition_named(edit.decomposition, **edit.options)
    may_not = form_refusal(layer, kind) if isinstance(edit, ToSVD) else kind.refusal(layer)
    if refusal := unsafe_because or may_not:
        raise ValueError(f"the edit of {edit.layer!r} does not fit: {refusal}")
    rank = kind.check_rank(layer, edit.rank, edit.layer)
    if isinstance(edit, ToSVD):
        replace_(model, edit.layer, SVDForm.skeleton(layer, kind, rank), [edit])
    else:
        replace_(model, edit.layer, kind.skeleton(layer, rank).train(layer.training), [edit])


def _fit_to_weights(
    modules: Mapping[str, nn.Module], wanted: Mapping[str, tuple[Decomposition, Rank]], store: SVDStore | None
) -> dict[str, nn.Module]:
    chains = {}
    for name, (kind, rank) in wanted.items():
        layer = modules[name]
        try:
            # Without a store an SVD up to the rank is enough, which is much quicker.
            chains[name] = kind.factorize(layer, rank) if store is None else kind.factorizer(layer, store)(rank)
        except ValueError as error:
            raise ValueError(f"{name} cannot be decomposed by {kind.name}: {error}") from error
    return chains


def _find_reasons(model: nn.Module, wanted: Iterable[str], tried: bool, example_input: Tensor | None) -> dict[str, str]:
    """Why layers of `model` must not be replaced, by name."""
    if example_input is not None:
        return trial(model, example_input)
    return unsafe(model) if tried else untried(model, wanted)


def _resolve_ranks(
    model: nn.Module, plan: Plan | Mapping[str, Rank | None], decompositions: Decompositions
) -> dict[str, tuple[Decomposition, Rank]]:
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    if isinstance(plan, Plan):
        outside = {*OUTSIDE.values(), OUTSIDE_TIME}
        by_layer(dict.fromkeys(name for name in plan if name not in outside), modules, "the plan")
        planned = {name: layer for name, layer in plan.layers.items() if layer.rank is not None}
        kinds = {n: decomposition_named(layer.decomposition, **layer.options) for n, layer in planned.items()}
        return {name: (kinds[name], layer.rank) for name, layer in planned.items()}
    layers = decompositions.by_layer(modules)
    wanted = {}
    for name, rank in by_layer(plan, layers, "the mapping of ranks").items():
        if rank is None:
            continue
        kind = layers[name]
        if kind is None:
            raise ValueError(f"{name} has rank {rank}, but no decomposition is given for layers of its kind")
        wanted[name] = (kind, rank)
    return wanted


def _left_of_factors(edits: Sequence[Edit], name: str, dense: nn.Module, factors: nn.Module) -> list[Edit]:
    """The edits of factors that are those of the dense layer in their place.

    A bias that a fit gave to a factor is one of the dense layer now, and so is the loss of channels that the first
    factor read or the last one put out; that of channels between factors is undone.
    """
    biased = [edit.layer for edit in edits if isinstance(edit, Bias)]
    of_a_factor = any(layer.startswith(f"{name}.") for layer in biased)
    given = [Bias(name)] if dense.bias is not None and of_a_factor and name not in biased else []
    return [*given, *_kept_by_ends(edits, name, factors)]


def _kept_by_ends(edits: Sequence[Edit], name: str, factors: nn.Module) -> list[Edit]:
    """What a dense layer keeps of its channels where its first and last factor kept some."""
    leaves = [f"{name}.{leaf}".rstrip(".") for leaf, factor in factors.named_modules() if not any(factor.children())]
    kept = [edit for edit in edits if isinstance(edit, KeepChannels)]
    out = [edit.out for edit in kept if edit.layer == leaves[-1] != name and edit.out is not None]
    inputs = [edit.inputs for edit in kept if edit.layer == leaves[0] != name and edit.inputs is not None]
    return [KeepChannels(name, *both) for both in zip_longest(out, inputs)]
