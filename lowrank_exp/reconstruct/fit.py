"""Fit the factors of layers to data: one door for a whole network."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.checks import boolean, fraction, one_of, whole
from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.files.results import digest
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.draws import kept_generators
from lowrank_exp.network.modes import evaluating
from lowrank_exp.reconstruct.available import FITS, adds_bias, check_fit, fit_refusal
from lowrank_exp.reconstruct.chain_store import ChainStore
from lowrank_exp.reconstruct.layer_fit import LayerFit, Options, sampled
from lowrank_exp.reconstruct.nonlinear import PAPER, Schedule
from lowrank_exp.reconstruct.passes import forward, image_batches, names_within
from lowrank_exp.reconstruct.readers import Reader, readers
from lowrank_exp.reconstruct.reduced_rank import CUTOFF
from lowrank_exp.reconstruct.sequence import in_sequence
from lowrank_exp.reconstruct.weights import with_bias

WEIGHTS = "weights"  # what layers without the fit are fitted to
_NO_OPTIONS = ("model", "wanted", "batches", "fit")


def fit_to_data(
    model: nn.Module,
    wanted: Mapping[str, tuple[Decomposition, Rank]],
    batches: Iterable[Any],
    fit: str,
    asymmetric: bool = False,
    *,
    images: int = 3000,
    positions: int = 10,
    seed: int = 0,
    schedule: Schedule = PAPER,
    cutoff: float = CUTOFF,
    memory: int = 2 * 2**30,
    otherwise: str = "refuse",
    kept: ChainStore | None = None,
) -> dict[str, nn.Module]:
    """The chains of factors for layers of `model`, fitted to what the layers see; `model` itself is not changed.

    All statistics are streamed in float64, in evaluation mode; a layer that is called several times in one pass pools
    its calls. The table of what there is for which decomposition: `lowrank_exp.reconstruct`.

    Args:
        model: any network that takes one tensor.
        wanted: decomposition and rank, by layer name.
        batches: can be iterated several times; gives tensors of images `(N, ...)`, or tuples with them in front.
        fit: "whitened" (least squares under the second moments of the layer's inputs; the bias stays), "response"
            (closest linear responses; the last factor has a bias, always) or "relu" (closest behind the ReLU that reads
            the layer's output, and behind the batch norm between them; a layer whose output anything else reads is
            fitted as by "response"; a bias, always).
        asymmetric: inputs are those of the network as compressed so far, layer after layer in the order of the forward
            pass, and targets those of `model`. Both networks are carried forward from layer to layer. A network that
            `torch.fx` cannot trace, because its code asks for the values of tensors, is run whole for every layer.
        images, positions, seed: "relu" sees so many random places of each of at most so many images, the first ones.
        schedule: of "relu", penalties and iterations of each; `lowrank_exp.reconstruct.PAPER` or `CODE`.
        cutoff: of the largest eigenvalue: below it a direction counts as never seen.
        memory: bytes that statistics of all layers of one pass may take; more layers take more passes. Of a layer whose
            second moments alone take more, the rows of its inputs are held instead. An asymmetric fit keeps in them
            what both networks have come to, too: images for which there is no room go again through the layers since
            they were kept last.
        otherwise: layers for whose decomposition there is no such fit are an error ("refuse"), or get the factors of
            their weights alone ("weights").
        kept: where every chain lies as soon as it is fitted, and is looked up by the network, the fit, the layer and
            what was fitted before it; the images must be those of former calls.

    Returns:
        By layer name, chains in the type and on the device of the layer. With "response" and "relu" they have the
        shapes of `kind.skeleton(with_bias(layer), rank)`, else of `kind.skeleton(layer, rank)`.

    Raises:
        ValueError: a fit that does not exist, for the decomposition or the layer; a layer that the data do not reach or
            reach with numbers that are not finite; batches that are empty or can be iterated only once; options out of
            range; a layer whose statistics find no room in `memory`.

    >>> from lowrank_exp.decomposition import LinearSVD
    >>> net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    >>> fit_to_data(net, {"0": (LinearSVD(), 2)}, [torch.eye(6)], "response")["0"]
    Sequential(
      (0): Linear(in_features=6, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=4, bias=True)
    )
    """
    options = Options(images, positions, seed, schedule, cutoff, memory)
    with kept_generators():
        layers = _check_layers(model, wanted, batches, fit, asymmetric, options, otherwise)
        unfitted = _unfitted(layers, wanted, fit) if otherwise == WEIGHTS else {}
        if len(unfitted) == len(layers):
            return unfitted
        chains = _chains(model, layers, wanted, unfitted, batches, fit, asymmetric, options, kept)
    return {name: chains[name] for name in wanted}


def _unfitted(
    layers: Mapping[str, nn.Module], wanted: Mapping[str, tuple[Decomposition, Rank]], fit: str
) -> dict[str, nn.Module]:
    """The factors of the weights of layers that have no such fit."""
    ranks = {name: kind.check_rank(layers[name], rank, name) for name, (kind, rank) in wanted.items()}
    return {
        name: kind.factorize(layers[name], ranks[name])
        for name, (kind, _) in wanted.items()
        if fit_refusal(layers[name], kind, ranks[name], fit)
    }


def _chains(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    wanted: Mapping[str, tuple[Decomposition, Rank]],
    unfitted: Mapping[str, nn.Module],
    batches: Iterable[Any],
    fit: str,
    asymmetric: bool,
    options: Options,
    kept: ChainStore | None,
) -> dict[str, nn.Module]:
    """The chains: those of layers that are not fitted, and the fitted ones, in the order of the forward pass."""
    calls, read_by = _probe(model, layers, batches, options.seed, with_readers=fit == "relu")
    if missing := [name for name in layers if name not in calls and name not in unfitted]:
        raise ValueError(f"the forward pass never calls {', '.join(missing)}: there is nothing to fit to")
    layer_fits = {}
    for name in calls:  # in the order of the forward pass
        if name in unfitted:
            continue
        kind, rank = wanted[name]
        rank = kind.check_rank(layers[name], rank, name)
        reader = read_by.get(name, Reader(relu=False))
        layer_fits[name] = LayerFit(name, layers[name], kind, rank, fit, asymmetric, options, reader)

    def data() -> Iterator[Tensor]:
        return image_batches(batches, _device(model), options.seed)

    chains, keys = dict(unfitted), {}

    def finish(name: str) -> None:
        chains[name] = layer_fits[name].chain()
        if kept is not None:
            kept.write(keys[name], chains[name])

    if kept is not None:
        planned = {name: [kind.name, kind.options(), rank] for name, (kind, rank) in wanted.items()}
        how = [fit, asymmetric, asdict(options), {name: planned[name] for name in unfitted}]
        keys = _keys(model, {name: planned[name] for name in layer_fits}, how, asymmetric)
        for name, one in layer_fits.items():
            skeleton = one.kind.skeleton(with_bias(one.layer) if adds_bias(fit) else one.layer, one.rank)
            if (chain := kept.read(keys[name], skeleton)) is not None:
                chains[name] = chain
    if asymmetric:
        both = in_sequence(model, calls, data, options.memory)
        for name in unfitted.keys() & calls.keys():
            both.replace(name, chains[name])
        for name, layer_fit in layer_fits.items():
            if name not in chains:
                both.show(layer_fit)
                finish(name)
            both.replace(name, chains[name])
    else:
        needed = {name: one.bytes() for name, one in layer_fits.items() if name not in chains}
        for names in names_within(options.memory, needed):
            some = [layer_fits[name] for name in names]
            _show(model, some, sum(calls[layer_fit.name] for layer_fit in some), data())
            for layer_fit in some:
                finish(layer_fit.name)
    return chains


def _keys(model: nn.Module, planned: Mapping[str, Any], how: list[Any], asymmetric: bool) -> dict[str, str]:
    """What decides every chain beside the images: in an asymmetric fit, the chains before it too."""
    before, keys = digest([tensors_digest(model), how]), {}
    for name, plan in planned.items():
        keys[name] = digest([before, name, plan])
        before = keys[name] if asymmetric else before
    return keys


def check_options(fit: str, **options: Any) -> None:
    """Nothing, if `fit_to_data` can take these options.

    Raises:
        ValueError: a fit or an option that does not exist, or a value out of range.
    """
    if fit not in FITS:
        raise ValueError(f"there is no fit to data {fit!r}; there are {', '.join(FITS)}")
    known = [name for name in inspect.signature(fit_to_data).parameters if name not in _NO_OPTIONS]
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(f"a fit to data has no option {', '.join(unknown)}; it takes {', '.join(known)}")
    for name in ("images", "positions", "memory"):
        value = options.get(name, 1)
        whole(name, value, message=f"{name} must be a whole number of at least 1, got {value!r}")
    one_of("otherwise", options.get("otherwise", "refuse"), ("refuse", WEIGHTS))
    asymmetric, cutoff = options.get("asymmetric", False), options.get("cutoff", 0.0)
    boolean("asymmetric", asymmetric, f"asymmetric must be true or false, got {asymmetric!r}")
    fraction("cutoff", cutoff, f"cutoff must lie in [0, 1), got {cutoff!r}", zero=True, one=False)
    stages = options.get("schedule", PAPER)
    if not isinstance(stages, Sequence) or not all(_is_stage(stage) for stage in stages):
        raise ValueError(f"schedule must hold pairs of a penalty above 0 and a number of iterations, got {stages!r}")


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, Sequence) or isinstance(stage, str) or len(stage) != 2:
        return False
    penalty, iterations = stage
    return isinstance(penalty, int | float) and penalty > 0 and isinstance(iterations, int) and iterations >= 0


def _check_layers(
    model: nn.Module,
    wanted: Mapping[str, tuple[Decomposition, Rank]],
    batches: Iterable[Any],
    fit: str,
    asymmetric: bool,
    options: Options,
    otherwise: str,
) -> dict[str, nn.Module]:
    """The layers, if all of them can be fitted, or may be left unfitted."""
    check_options(fit, asymmetric=asymmetric, otherwise=otherwise, **vars(options))
    if isinstance(batches, Iterator):
        raise ValueError("batches can be iterated only once; pass a list or a DataLoader, not a generator")
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    for name, (kind, rank) in wanted.items():
        if name not in modules:
            raise ValueError(f"the network has no convolution or linear layer {name!r}")
        if refusal := kind.refusal(modules[name]):
            raise ValueError(f"{name} cannot be decomposed by {kind.name}: {refusal}")
        rank = kind.check_rank(modules[name], rank, name)
        kind.check_weight(modules[name], name)
        if otherwise != WEIGHTS:
            check_fit(fit, name, kind, modules[name], rank)
    return {name: modules[name] for name in wanted}


def _probe(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Any], seed: int, with_readers: bool
) -> tuple[dict[str, int], dict[str, Reader]]:
    """Calls of every layer in one pass of one image, in the order of the first ones; and what reads their outputs."""
    image = next((images[:1] for images in image_batches(batches, _device(model), seed)), None)
    if image is None:
        raise ValueError("batches are empty: there is nothing to fit to")
    names = {layer: name for name, layer in layers.items()}
    calls: dict[str, int] = {}

    def see(name: str) -> Any:
        def count(x: Tensor, y: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1

        return count

    def run() -> None:
        forward(model, image, {layer: see(name) for layer, name in names.items()})

    with evaluating(model):
        read_by = readers(model, layers, run) if with_readers else {}
        if not with_readers:
            run()
    return calls, read_by


def _show(model: nn.Module, layer_fits: list[LayerFit], calls: int, batches: Iterator[Tensor]) -> None:
    """One pass over the data for some layers."""
    first = 0
    with evaluating(model):
        for images in batches:

            def see(layer_fit: LayerFit, first: int = first) -> Any:
                return lambda x, y: layer_fit.add(first, x, y)

            forward(model, images, {layer_fit.layer: see(layer_fit) for layer_fit in layer_fits}, calls)
            first += len(images)
            if sampled(layer_fits, first):
                return


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
