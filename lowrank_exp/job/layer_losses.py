"""What every decomposed layer lost: of its weight, of its responses, and, on request, of accuracy on its own.

Errors are relative and squared, ||w - w_hat||^2 / ||w||^2, of the weight that the phase got and of the responses of the
layer to the inputs that it has in that phase's network, over training images without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lowrank_exp.decomposition.recompose import recompose
from lowrank_exp.network.modes import evaluating
from lowrank_exp.rank import Plan
from lowrank_exp.training import FirstImages, evaluate

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData

Losses = dict[str, dict[str, float]]


def layer_losses(
    before: nn.Module,
    after: nn.Module,
    layers: Sequence[str],
    images: Iterable[Tensor],
    accuracy: Callable[[nn.Module], float | None] | None = None,
) -> Losses:
    """`weight_error`, `response_error` and `accuracy_alone` of layers by name, as far as they can be measured.

    Args:
        before: the network that the phase got; it is as it was afterwards.
        after: the one that it has left, on the same device.
        layers: names that both have.
        images: batches, for the responses.
        accuracy: measures a network, for that of `before` with one layer of `after` alone; None: not asked for.
    """
    pairs = {name: (before.get_submodule(name), after.get_submodule(name)) for name in layers}
    losses: Losses = {name: {} for name in layers}
    with torch.no_grad():
        for name, pair in pairs.items():
            if (error := _weight_error(*pair)) is not None:
                losses[name]["weight_error"] = error
        for name, error in _response_errors(before, after, pairs, images).items():
            losses[name]["response_error"] = error
    if accuracy is None:
        return losses
    for name, (layer, factors) in pairs.items():
        before.set_submodule(name, factors)
        try:
            found = accuracy(before)
        finally:
            before.set_submodule(name, layer)
        losses[name] |= {} if found is None else {"accuracy_alone": found}
    return losses


def losses_of_plan(
    before: nn.Module, after: nn.Module, plan: Plan, data: ImageData, cfg: DictConfig, device: str
) -> Losses:
    """What the layers lost that a plan has decomposed, as `losses` of the configuration asks for.

    Accuracies are on validation images, or on test images where there are none.
    """
    networks = [network.to(device) for network in (before, after)]
    names = [{name for name, _ in network.named_modules()} for network in networks]
    layers = [name for name, rank in plan.ranks.items() if rank is not None and name in names[0] & names[1]]
    count, batch_size = min(cfg.losses.images, data.sizes["train"]), cfg.evaluation.batch_size
    images: Iterable[Tensor] = ()
    if count:
        images = FirstImages(data.train_loader(batch_size, 0, augment=False), count)

    def accuracy(network: nn.Module) -> float | None:
        loader = data.val_loader(batch_size) if data.sizes["val"] else data.test_loader(batch_size)
        return evaluate(network, loader, device).accuracy

    return layer_losses(*networks, layers, images, accuracy if cfg.losses.alone else None)


def _weight_error(layer: nn.Module, factors: nn.Module) -> float | None:
    """None where one of them has no weight that is known: codebooks, sums of several parts."""
    known = [_weight(one) for one in (layer, factors)]
    if any(weight is None for weight in known) or known[0].shape != known[1].shape:
        return None
    weight, approximated = (one.double() for one in known)
    return _relative((weight - approximated).square().sum().item(), weight.square().sum().item())


def _weight(module: nn.Module) -> Any:
    if isinstance(weight := getattr(module, "weight", None), Tensor):
        return weight
    try:
        return recompose(module).weight  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None


def _response_errors(
    before: nn.Module, after: nn.Module, pairs: Mapping[str, tuple[nn.Module, nn.Module]], images: Iterable[Tensor]
) -> dict[str, float]:
    sums = {name: [0.0, 0.0] for name in pairs}

    def listen(name: str, factors: nn.Module) -> Callable:
        def hook(module: nn.Module, inputs: tuple, options: dict, output: Tensor) -> None:
            approximated = factors(*inputs, **options)
            sums[name][0] += (output.double() - approximated.double()).square().sum().item()
            sums[name][1] += output.double().square().sum().item()

        return hook

    device = next((parameter.device for parameter in before.parameters()), torch.device("cpu"))
    kind = next((parameter.dtype for parameter in before.parameters()), torch.float32)
    with ExitStack() as stack:
        for network in (before, after):
            stack.enter_context(evaluating(network))
        for name, (layer, factors) in pairs.items():
            stack.callback(layer.register_forward_hook(listen(name, factors), with_kwargs=True).remove)
        for batch in images:
            before(batch.to(device, kind))
    errors = {name: _relative(*both) for name, both in sums.items()}
    return {name: error for name, error in errors.items() if error is not None}


def _relative(lost: float, whole: float) -> float | None:
    return lost / whole if whole else None
