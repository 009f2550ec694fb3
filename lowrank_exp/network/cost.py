"""What a network costs: MACs, weights and parameters, layer by layer.

MACs: one multiply-accumulate counts 1; convolutions and linear layers only, biases and batch norm left out; for one
image (the first dimension of the example input is cut to 1). Weights: entries of convolution and linear weights, a
weight that several layers share once. Parameters: everything trainable. `torch.utils.flop_counter` does the counting;
it counts 2 per MAC. Convolutions that no registered layer makes (`F.conv2d`, layers in a plain list, TorchScript) have
entries of their own, so that all sums are those of the whole network.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.network.inputs import like_network
from lowrank_exp.network.modes import evaluating
from lowrank_exp.network.operations import Counter, Operations

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LAYERS = (*CONVOLUTIONS, nn.Linear)
OUTSIDE = {"conv": "(convolutions outside layers)", "linear": "(linear layers outside modules)"}  # their names
OUTSIDE_TIME = "(time outside layers)"


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer: its MACs per image, weights, output channels and the inputs it was called on."""

    name: str
    macs: int
    weights: int
    channels: int
    input_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NetworkCost:
    """All that a network costs per image.

    Attributes:
        layers: its convolutions and linear layers, in the order of `named_modules`. Of layers that share a weight the
            first has it in its `weights`, the others have none there.
        outside: what no layer of them computes, under the names of `OUTSIDE`: convolutions called as functions, and
            convolutions and linear layers that lie in plain lists or in TorchScript. Empty where there are none.
        uncounted: MACs that torch counts beyond these: products inside attention, linear maps called as functions.
        unregistered: convolutions and linear layers that are called but are not part of the network (in a plain list).
    """

    layers: dict[str, LayerCost]
    outside: dict[str, LayerCost]
    uncounted: int
    unregistered: int = 0

    @property
    def every(self) -> dict[str, LayerCost]:
        """Layers and what lies outside them."""
        return self.layers | self.outside

    @property
    def macs(self) -> int:
        return sum(cost.macs for cost in self.every.values())

    @property
    def weights(self) -> int:
        return sum(cost.weights for cost in self.every.values())

    def warn(self) -> None:
        """Say what torch counts beyond the MACs of this project, and that layers are not registered; if so."""
        if self.unregistered:
            warnings.warn(
                f"{self.unregistered} convolutions or linear layers that the network calls are not registered in it: "
                "they are neither trained, moved nor saved. Hold them in an nn.ModuleList",
                stacklevel=3,
            )
        if self.uncounted:
            warnings.warn(
                f"torch counts {self.uncounted:,} more MACs in products outside convolutions and linear layers "
                "(attention, linear maps called as functions); MACs and budgets leave them out",
                stacklevel=3,
            )


def check_network(model: object) -> None:
    """Nothing, if it is a network.

    Raises:
        ValueError: it is something else, such as the class of one.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a network, got {model!r:.80}: pass what its constructor gives")


def check_shapes(model: nn.Module) -> None:
    """Nothing, if all parameters have a shape.

    Raises:
        ValueError: a lazy layer has not been called yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet: run the network once before")


def one_image(model: nn.Module, example_input: Tensor) -> Tensor:
    """The first image of `example_input`, `(1, ...)`, detached, where the model's parameters lie and in their type.

    Raises:
        ValueError: it is not a tensor, has no image, or has no numbers (meta device) where the model has.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 1 or len(example_input) < 1:
        raise ValueError(f"example_input must be a tensor with at least one image, got {example_input!r:.80}")
    parameter = next(model.parameters(), None)
    image = example_input[:1].detach()
    if image.is_meta and parameter is not None and not parameter.is_meta:
        raise ValueError(
            f"example_input lies on the meta device, the network on {parameter.device}: give a tensor with numbers"
        )
    return like_network(image, model)


def layer_costs(model: nn.Module, example_input: Tensor) -> dict[str, LayerCost]:
    """Cost of every convolution and linear layer of `model`, in the order of `named_modules`; see `network_cost`.

    >>> layer_costs(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 10, 10))["0"].macs
    13824
    """
    return network_cost(model, example_input).layers


def network_cost(model: nn.Module, example_input: Tensor) -> NetworkCost:
    """What every convolution and linear layer of `model` costs, and what else the network computes.

    Runs one forward pass of one image in evaluation mode (on the meta device where the model lies there). A layer that
    the pass never calls has no `input_shapes` and 0 MACs; one that is called several times counts every time. A layer
    in SVD form costs what the dense layer `like` costs, which is what it computes. A layer inside another counts by
    itself, and not in the other.

    Raises:
        ValueError: an example input without a batch axis, or of another type than the weights.
    """
    check_network(model)
    check_shapes(model)
    plain = {module: getattr(module, "like", module) for module in model.modules()}
    names = {module: name for name, module in model.named_modules() if isinstance(plain[module], LAYERS)}
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {module: [] for module in names}
    last: list[tuple[nn.Module, Tensor]] = []

    def before(module: nn.Module, inputs: tuple, kwargs: dict) -> None:
        x = inputs[0] if inputs else kwargs["input"]
        shapes[module].append(tuple(x.shape))
        last[:] = [(module, x)]

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    image, operations = one_image(model, example_input), Operations(model, names, LAYERS)
    try:
        with evaluating(model), operations.counted():
            model(image)
    except Exception as error:
        if last and (wrong := _unsuitable(names[last[0][0]], plain[last[0][0]], last[0][1], example_input)):
            raise ValueError(f"{wrong}. The network said: {error!s:.300}") from error
        raise
    finally:
        for hook in hooks:
            hook.remove()
    macs = operations.macs
    for module in names:
        if plain[module] is not module:
            macs[module] = sum(macs_of_factors([plain[module]], shape)[0] for shape in shapes[module])
    holders: dict[int, nn.Module] = {}
    layers = {}
    for module, name in names.items():
        weight = plain[module].weight
        counted_elsewhere = isinstance(weight, nn.Parameter) and holders.setdefault(id(weight), module) is not module
        channels, called = out_channels(plain[module]), tuple(shapes[module])
        layers[name] = LayerCost(name, macs[module], 0 if counted_elsewhere else weight.numel(), channels, called)
    outside = {
        OUTSIDE[kind]: LayerCost(OUTSIDE[kind], spent, operations.weights[kind], 0, ())
        for kind, spent in operations.outside.items()
        if spent
    }
    return NetworkCost(layers, outside, operations.uncounted, len(operations.unregistered))


def _unsuitable(name: str, layer: nn.Module, x: Tensor, example_input: Tensor) -> str | None:
    """What is wrong with an example input that made `x`, at which `layer` or what follows it has failed."""
    shape, axes = tuple(example_input.shape), len(getattr(layer, "kernel_size", ()))
    if axes and x.dim() == axes + 1 and example_input.dim() <= axes + 1:
        return (
            f"example_input has the shape {shape}, whose first axis counts images, and {name} wants "
            f"{axes + 2} axes: give example_input[None]"
        )
    if x.dtype != layer.weight.dtype:
        return (
            f"{name} has weights of {layer.weight.dtype} and got {x.dtype}; example_input is {example_input.dtype}: "
            f"give example_input.to({layer.weight.dtype})"
        )
    return None


def out_channels(layer: nn.Module) -> int:
    """Output channels of a convolution, output features of a linear layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def macs_of_factors(chain: nn.Sequential | Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[int]:
    """MACs of every layer with a weight in `chain` (on the meta device) for one input of `input_shape`."""
    x = torch.empty(input_shape, device="meta", dtype=next(p for factor in chain for p in factor.parameters()).dtype)
    macs = []
    with torch.no_grad():
        for factor in chain:
            with Counter() as counter:
                x = factor(x)
            if hasattr(factor, "weight"):
                macs.append(counter.get_total_flops() // 2)
    return macs
