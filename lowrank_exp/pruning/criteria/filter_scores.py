"""The scores of all filters of some layers by one criterion.

Legend: N images of a batch, O filters of a layer, S sums and T statistics of a criterion, M positions of a map; z a
map, g the derivative of each image's loss by it.
"""

import os
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowrank_exp.network.cost import out_channels
from lowrank_exp.network.draws import kept_generators
from lowrank_exp.network.modes import evaluating
from lowrank_exp.network.private import times_written
from lowrank_exp.pruning.combine import normalise, weighted_sum
from lowrank_exp.pruning.criteria.bn_scale import norms_behind
from lowrank_exp.pruning.criteria.criterion import DataCriterion, WeightCriterion
from lowrank_exp.pruning.criteria.filters import scored_layers
from lowrank_exp.pruning.criteria.maps import Kept, Maps
from lowrank_exp.pruning.criteria.oracle import Oracle
from lowrank_exp.pruning.criteria.weighted_sum import WeightedSum
from lowrank_exp.pruning.gradients import gradients_from

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def filter_scores(
    network: nn.Module,
    layers: Sequence[str],
    criterion: WeightCriterion | DataCriterion | WeightedSum | Oracle,
    batches: Batches | None = None,
    loss: Loss = cross_entropy,
    path: str | os.PathLike | None = None,
) -> dict[str, Tensor]:
    """One score for every filter (out channel) of every layer; the lowest are to be removed first.

    Criteria that look at data run the network in eval mode, once per batch, forwards and where they need it backwards.
    No gradient of a parameter is computed; memory is that of one batch, however many there are. A score does not
    depend on how the images are dealt out to batches.

    Args:
        network: its parameters, gradients and modes are as before afterwards.
        layers: names of convolutions, transposed ones too, and linear layers.
        criterion: of this folder.
        batches: images `(N, ...)` and labels `(N,)`. Criteria of weights need none, but for `BNScale`, which finds the
            batch norms by one image of the first batch. A `WeightedSum` goes through them once per criterion: give it
            a list or a loader.
        loss: of the network's output and the labels, the mean over the images.
        path: of a file in which an `Oracle` keeps what it has measured, see `oracle`; the others measure in one go.

    Returns:
        By layer, in the given order, the scores `(O,)`, float64, on the CPU.

    Raises:
        ValueError: a name of no such layer, no images where the criterion needs some, a layer that the network does not
            call or whose output has another first dimension than the images, scores that are not finite.

    >>> from lowrank_exp.pruning.criteria import L1
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    >>> _ = network[0].weight.data.copy_(torch.tensor([-3.0, 2.0])[:, None, None, None])
    >>> filter_scores(network, ["0"], L1())
    {'0': tensor([3., 2.], dtype=torch.float64)}
    """
    modules = scored_layers(network, layers)
    if isinstance(criterion, Oracle):
        return criterion.scores(network, layers, _require_batches(batches, criterion), loss, path)
    if isinstance(criterion, WeightedSum):
        several = {
            name: normalise(filter_scores(network, layers, one, batches, loss), criterion.form)
            for name, one in criterion.criteria.items()
        }
        return weighted_sum(list(several.values()), [criterion.weights[name] for name in several])
    if isinstance(criterion, DataCriterion):
        scores = _of_data(network, modules, criterion, _require_batches(batches, criterion), loss)
    else:
        norms = _norms(network, layers, _require_batches(batches, criterion)) if criterion.needs_norm else {}
        scores = {name: criterion.of_layer(name, layer, norms.get(name)) for name, layer in modules.items()}
    for name, s_O in scores.items():
        if not s_O.isfinite().all():
            raise ValueError(
                f"{type(criterion).__name__}: {name} has scores that are not finite; has training diverged?"
            )
    return {name: s_O.double().cpu() for name, s_O in scores.items()}


def _require_batches(batches: Batches | None, criterion: object) -> Batches:
    if batches is None:
        raise ValueError(f"{type(criterion).__name__} looks at images: give batches of images and labels")
    return batches


def _norms(network: nn.Module, layers: Sequence[str], batches: Batches) -> dict[str, nn.Module]:
    with kept_generators():
        for images, _ in batches:
            return norms_behind(network, layers, images[:1])
    raise ValueError("there are no images: the batches gave none")


def _of_data(
    network: nn.Module, modules: dict[str, nn.Module], criterion: DataCriterion, batches: Batches, loss: Loss
) -> dict[str, Tensor]:
    totals_TO: dict[str, Tensor] = {}
    count = 0
    with evaluating(network), torch.set_grad_enabled(criterion.needs_gradient):
        for images, labels in batches:
            sums, positions = _of_batch(network, modules, criterion, images, labels, loss)
            for name in modules:
                statistics_TNO = criterion.of_images(sums[name].cpu().double(), positions[name])
                totals_TO[name] = totals_TO.get(name, 0) + statistics_TNO.sum(dim=1)
            count += len(images)
    if not count:
        raise ValueError(f"{type(criterion).__name__} looks at images, and the batches gave none")
    return {name: criterion.score(total_TO / count) for name, total_TO in totals_TO.items()}


def _of_batch(
    network: nn.Module,
    modules: dict[str, nn.Module],
    criterion: DataCriterion,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """By layer the sums `(S, N, O)` over the positions of its maps, and how many positions these are."""
    N, device = len(images), next(network.parameters()).device
    sums_SNO: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    def add(name: str, z: Tensor, g: Tensor | None) -> None:
        if isinstance(modules[name], nn.Linear):
            z, g = z.movedim(-1, 1), None if g is None else g.movedim(-1, 1)
        if len(z) != N or z.dim() < 2 or z.shape[1] != out_channels(modules[name]):
            raise ValueError(f"{name} made a map of shape {tuple(z.shape)} of {N} images: images must come first")
        sums_SNO[name] = sums_SNO.get(name, 0) + torch.stack(criterion.of_map(z, g))
        positions[name] = positions.get(name, 0) + z[0, 0].numel()

    def take(name: str, z: Tensor) -> Kept | None:
        if not criterion.needs_gradient:
            add(name, z, None)
            return None
        if not z.requires_grad:  # a part without gradients made it
            return None
        kept = [z.detach()]
        version = times_written(z)

        def backward(g: Tensor) -> None:
            if times_written(kept[0]) not in (version, 0):
                raise ValueError(f"the map of {name} is written into by way of a view: this layer cannot be scored")
            add(name, kept[0], g)

        z.register_hook(backward)
        return kept

    leaf = images.to(device, copy=True)
    if criterion.needs_gradient and not leaf.is_floating_point():
        raise ValueError(f"gradients reach the maps by way of the images, which are {leaf.dtype}: give floats")
    names = {layer: name for name, layer in modules.items()}
    leaf.requires_grad_(criterion.needs_gradient)
    with gradients_from(modules.values(), network) as begins, Maps(names, criterion.at, take):
        output = network(leaf.clone())
        total = loss(output, labels.to(device)) * N if criterion.needs_gradient else None
    if total is not None and total.requires_grad:
        # The loss is a mean over the images; times N, each image's maps get the gradient of its own loss.
        torch.autograd.grad(total, [leaf, *begins], allow_unused=True)
    if missing := [name for name in modules if name not in sums_SNO]:
        raise ValueError(f"{missing[0]} has no map on the way from the images to the output: leave it out")
    return sums_SNO, positions
