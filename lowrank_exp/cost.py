"""What a network costs: MACs, weights and parameters, layer by layer.

MACs: one multiply-accumulate counts 1; convolutions and linear layers only, biases and batch norm left out; for one
image (the first dimension of the example input is cut to 1). Weights: entries of convolution and linear weights.
Parameters: everything trainable. `torch.utils.flop_counter` does the counting; it counts 2 per MAC.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.modes import evaluating

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LAYERS = (*CONVOLUTIONS, nn.Linear)


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer: its MACs per image, weights, output channels and the inputs it was called on."""

    name: str
    macs: int
    weights: int
    channels: int
    input_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measurement:
    """A whole network: MACs per image, weights, trainable parameters, and milliseconds of one forward pass."""

    macs: int
    weights: int
    parameters: int
    latency_ms: float | None


def one_image(model: nn.Module, example_input: Tensor) -> Tensor:
    """The first image of `example_input`, shape `(1, ...)`, where the model's parameters lie."""
    if not isinstance(example_input, Tensor) or example_input.dim() < 1 or len(example_input) < 1:
        raise ValueError(f"example_input must be a tensor with at least one image, got {example_input!r:.80}")
    parameter = next(model.parameters(), None)
    return example_input[:1] if parameter is None else example_input[:1].to(parameter.device)


def layer_costs(model: nn.Module, example_input: Tensor) -> dict[str, LayerCost]:
    """Cost of every convolution and linear layer of `model`, in the order of `named_modules`.

    Runs one forward pass of one image in evaluation mode (on the meta device where the model lies there). A layer that
    the pass never calls has no `input_shapes` and 0 MACs; one that is called several times counts every time. A layer
    in SVD form costs what the dense layer `like` costs, which is what it computes.

    >>> layer_costs(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 10, 10))["0"].macs
    13824
    """
    plain = {module: getattr(module, "like", module) for module in model.modules()}
    names = {module: name for name, module in model.named_modules() if isinstance(plain[module], LAYERS)}
    macs = dict.fromkeys(names, 0)
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {module: [] for module in names}
    counter = FlopCounterMode(display=False)

    def before(module: nn.Module, inputs: tuple, kwargs: dict) -> None:
        x = inputs[0] if inputs else kwargs["input"]
        shapes[module].append(tuple(x.shape))
        macs[module] -= counter.get_total_flops()

    def after(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        macs[module] += counter.get_total_flops()

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        with evaluating(model), counter:
            model(one_image(model, example_input))
    finally:
        for hook in hooks:
            hook.remove()
    for module in names:
        if plain[module] is not module:
            macs[module] = 2 * sum(macs_of_factors([plain[module]], shape)[0] for shape in shapes[module])
    return {
        name: LayerCost(
            name, macs[module] // 2, plain[module].weight.numel(), out_channels(plain[module]), tuple(shapes[module])
        )
        for module, name in names.items()
    }


def out_channels(layer: nn.Module) -> int:
    """Output channels of a convolution, output features of a linear layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def macs_of_factors(chain: nn.Sequential | Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[int]:
    """MACs of every layer with a weight in `chain` (on the meta device) for one input of `input_shape`."""
    x = torch.empty(input_shape, device="meta", dtype=next(p for factor in chain for p in factor.parameters()).dtype)
    macs = []
    with torch.no_grad():
        for factor in chain:
            with FlopCounterMode(display=False) as counter:
                x = factor(x)
            if hasattr(factor, "weight"):
                macs.append(counter.get_total_flops() // 2)
    return macs


def measure(model: nn.Module, example_input: Tensor, *, seconds: float = 0.2) -> Measurement:
    """MACs, weights, parameters and latency of `model` on `example_input`.

    Args:
        model: any network that takes one tensor.
        example_input: `(N, ...)`; MACs are those of one image, the latency that of all N.
        seconds: how long to repeat the forward pass; 0 leaves the latency out (None).

    >>> measure(nn.Linear(4, 3), torch.zeros(1, 4), seconds=0)
    Measurement(macs=12, weights=12, parameters=15, latency_ms=None)
    """
    from lowrank_exp.latency import latency_ms

    costs = layer_costs(model, example_input).values()
    return Measurement(
        macs=sum(cost.macs for cost in costs),
        weights=sum(cost.weights for cost in costs),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        latency_ms=latency_ms(model, example_input, seconds=seconds) if seconds else None,
    )
