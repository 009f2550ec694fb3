"""A network as torch-pruning traces it: which operation reads what, from one forward pass without numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowrank_exp.layers.moves_channels import MovesChannels
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.inputs import like_network
from lowrank_exp.network.private import graph_nodes
from lowrank_exp.network.shapes import by_shapes
from lowrank_exp.pruning.gradients import Followed, tensors_of, without_gradient
from lowrank_exp.svd_form.layers import SVDForm

BATCH = 2  # of the traced pass: a batch of one could be taken for a broadcast
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PER_CHANNEL = (*BATCH_NORMS, nn.PReLU)


class Trace(NamedTuple):
    """Nodes of torch-pruning's dependency graph, names of modules, how often each layer was called, and those layers of
    them that no gradient reaches.

    A node has `module` (of a copy of the network, or torch-pruning's stand-in for an operation), `grad_fn` (autograd's
    record of the operation, shapes included) and `inputs` (nodes).
    """

    nodes: list[Any]
    names: dict[nn.Module, str]
    calls: dict[nn.Module, int]
    without_gradient: list[nn.Module]


class Entry(nn.Module):
    """The network's input, so that it has a node of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


class Neighbours(torch.autograd.Function):
    """Stands for a local response normalisation, which reads channel c and those beside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Normalisation(nn.Module):
    """Calls `Neighbours`; where one module is called twice, each call is an operation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return Neighbours.apply(x)


class Moved(torch.autograd.Function):
    """One operation that does what a layer does which moves channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None  # never asked for: only the graph is read


class Moving(nn.Module):
    """Stands for a layer that moves channels, and calls it as one operation, however many it consists of."""

    def __init__(self, layer: MovesChannels) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple, so that it is not a module of the traced network

    def forward(self, x: Tensor) -> Tensor:
        return Moved.apply(x, *self.layer)


class Through:
    """What torch-pruning asks of a layer that it does not know."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int | None:
        return getattr(layer, "channels", None)

    get_in_channels = get_out_channels


def trace(model: nn.Module, example_input: Tensor) -> Trace:
    """Run `model`, as a copy without numbers if that will do, in evaluation mode, on two of the first image.

    Raises:
        ValueError: whatever the network's code raises.
    """
    return by_shapes(_trace_where_it_lies, model, example_input)


def _trace_where_it_lies(network: nn.Module, example_input: Tensor) -> Trace:
    """Likewise of a copy, which is changed, where it lies."""
    import torch_pruning

    network = _to_trace_(network)
    names = {module: name for name, module in network.named_modules()}
    x = like_network(example_input[:1], network).repeat(BATCH, *[1] * (example_input.dim() - 1)).requires_grad_()
    entry = Entry()
    entry.channels = x.shape[1]
    calls: dict[nn.Module, int] = {}
    hooks = [
        module.register_forward_hook(lambda m, *_: calls.update({m: calls.get(m, 0) + 1}))
        for module in names
        if isinstance(module, (*LAYERS, *PER_CHANNEL, Moving))
    ]
    hooks += [module.register_forward_pre_hook(_follow_anew) for module in names if isinstance(module, LAYERS)]
    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), Followed():
            graph.build_dependency(
                nn.Sequential(entry, network),
                x,
                forward_fn=lambda sequence, x: sequence(x),
                output_transform=_end_outputs,
                customized_pruners={kind: Through() for kind in (Entry, Moving)},
                verbose=False,
            )
    except Exception as error:
        if graph_nodes(graph) is None:  # else only torch-pruning's guess of indices failed, which is not used
            raise ValueError(
                f"the network could not be traced on an input of shape {tuple(example_input.shape)}: {error}"
            ) from error
    finally:
        for hook in hooks:
            hook.remove()
    try:
        cut_off = without_gradient(network, x.detach(), calls)
    except RuntimeError as error:
        raise ValueError(f"the network does not run with gradients, which tell what may be pruned: {error}") from error
    return Trace(graph_nodes(graph), names, calls, cut_off)


def _to_trace_(network: nn.Module) -> nn.Module:
    """The network with its SVD forms dense and its parameters frozen: only activations are recorded.

    Layers that move channels, or read neighbouring ones, become one operation each, which the graph knows by its name.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, SVDForm):
            network.set_submodule(name, module.like if module.U.is_meta else module.dense())
        elif isinstance(module, nn.LocalResponseNorm):
            network.set_submodule(name, Normalisation())
        elif isinstance(module, MovesChannels):
            network.set_submodule(name, Moving(module))
    return network.requires_grad_(False)


def _follow_anew(layer: nn.Module, inputs: tuple) -> tuple | None:
    """What a layer reads, followed from there on where it comes from a part that autograd cannot record."""
    untracked = inputs and isinstance(inputs[0], Tensor) and not inputs[0].requires_grad
    if untracked and not torch.is_inference_mode_enabled():
        return (inputs[0].clone().requires_grad_(), *inputs[1:])
    return None


def _end_outputs(output: Any) -> list[Tensor]:
    """Every tensor of the output behind one more operation, which then is the graph's end."""
    return [tensor * 1 for tensor in tensors_of(output) if tensor.grad_fn is not None]
