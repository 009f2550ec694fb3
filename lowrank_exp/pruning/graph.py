"""Which channel of one layer is which channel of the next, read off torch-pruning's graph of a network.

torch-pruning traces which operation reads the output of which. It guesses indices from layer sizes; here they come from
the shapes that autograd has recorded. An operation that is not known to keep channels apart fixes them.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lowrank_exp.layers.moves_channels import NOTHING, MovesChannels
from lowrank_exp.network.cost import LAYERS, out_channels
from lowrank_exp.network.private import is_output, operands, output_shapes, saved
from lowrank_exp.pruning.gradients import WITHOUT_GRADIENT
from lowrank_exp.pruning.trace import BATCH_NORMS, PER_CHANNEL, Entry, Moving, Trace, trace

# Operations, as autograd names them, whose channel c is made of channel c of each operand.
CHANNEL_WISE = """
    Abs AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D Add Alias AvgPool2D AvgPool3D Clamp
    ClampMax ClampMin Clone ConstantPadNd Div Elu Expand Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu LogSigmoid
    MaxPool2DWithIndices MaxPool3DWithIndices Maximum Mean Minimum Mish Mul NativeDropout Neg Permute Pow
    ReflectionPad2D Relu ReplicationPad2D Sigmoid Silu Slice Softplus Sqrt Squeeze Sub Sum Tanh Threshold ToCopy
    Transpose Unsqueeze UpsampleBilinear2D UpsampleNearest2D
"""
CHANNEL_WISE = frozenset(CHANNEL_WISE.split())
RESHAPES = frozenset({"View", "UnsafeView", "ReshapeAlias", "Reshape"})
SPLITS = frozenset({"Split", "SplitWithSizes"})


class Span(NamedTuple):
    """Consecutive numbers, one for each channel of one layer's input or output."""

    first: int
    size: int

    @property
    def ids(self) -> np.ndarray:
        return np.arange(self.first, self.first + self.size)


@dataclass
class ChannelGraph:
    """All channels of a network, numbered, and which flow into which.

    `inputs` and `outputs` are those of convolutions and linear layers, `moved` and `passing` those of layers that move
    channels; `passing` are also layers with one value per channel. `links` holds arrays (sources, targets); `fixed` the
    spans whose channels cannot be removed, and why; `without_gradient` the layers that no gradient reaches, some of
    which have no span.
    """

    inputs: dict[str, Span] = field(default_factory=dict)
    outputs: dict[str, Span] = field(default_factory=dict)
    moved: dict[str, Span] = field(default_factory=dict)
    passing: dict[str, Span] = field(default_factory=dict)
    links: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    fixed: list[tuple[Span, str]] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    total: int = 0

    def span(self, size: int) -> Span:
        """A new span of `size` channels."""
        self.total += size
        return Span(self.total - size, size)


def channel_graph(model: nn.Module, example_input: Tensor, close_up: bool = False) -> ChannelGraph:
    """The channels of `model` and how they flow; `model` is not touched.

    Args:
        model: a network that takes one tensor, channels in dimension 1.
        example_input: `(N, C, ...)`; its shape counts.
        close_up: whether channels before a local response normalisation may go, so that others move together.

    Raises:
        ValueError: the network cannot be traced.
    """
    return _Reading(trace(model, example_input), close_up).read()


class _Reading:
    """Nodes of torch-pruning turned into spans and links.

    A node's channels come in at its start and go out at its end. Those are two spans only where a layer puts out other
    channels than it reads, or moves them: what keeps channels apart has the same ones on both sides.
    """

    def __init__(self, traced: Trace, close_up: bool) -> None:
        self.nodes, self.names, self.calls, self.without_gradient = traced
        self.close_up = close_up
        self.graph = ChannelGraph()
        self.starts: dict[Any, Span] = {}
        self.ends: dict[Any, Span] = {}

    def read(self) -> ChannelGraph:
        # All spans before the links: torch-pruning lists nodes from the output on, so a node's sources come after it.
        for node in self.nodes:
            self._set_spans(node)
        self._fix_without_gradient()
        for node in self.nodes:
            self._set_links(node)
        # Groups are named after their first layer in the order of the network, which is not that of the nodes.
        for spans in (self.graph.inputs, self.graph.outputs, self.graph.moved, self.graph.passing):
            unordered = dict(spans)
            spans.clear()
            spans.update({name: unordered[name] for name in self.names.values() if name in unordered})
        return self.graph

    def _set_spans(self, node: Any) -> None:
        graph, layer, shapes = self.graph, node.module, output_shapes(node.grad_fn)
        name = self.names.get(layer)
        if isinstance(layer, LAYERS):
            inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            self.starts[node] = graph.inputs[name] = graph.span(inputs)
            self.ends[node] = graph.outputs[name] = graph.span(out_channels(layer))
            if isinstance(layer, nn.Linear) and len(shapes[0]) != 2:
                self._fix(node, f"{name} is a linear layer on inputs of more than one axis")
        elif isinstance(layer, Moving):
            self._set_moved(node, name, *layer.layer)
        else:
            # A split has one node for all of its outputs: its span has their channels one after the other.
            parts = shapes if _operation(node) in SPLITS else shapes[:1]
            size = sum(part[1] if len(part) > 1 else 1 for part in parts)
            self.starts[node] = self.ends[node] = graph.span(size)
            if isinstance(layer, BATCH_NORMS) or (isinstance(layer, nn.PReLU) and layer.num_parameters > 1):
                graph.passing[name] = self.starts[node]
        if isinstance(layer, Entry):
            self._fix(node, "they are, or are added to, the network's input")
        elif is_output(layer):
            self._fix(node, "they are the network's output")
        elif _operation(node) == "Neighbours" and not self.close_up:
            self._fix(
                node,
                "a local response normalisation reads neighbouring channels, and others would move beside them; "
                "close_up=True takes that into the bargain",
            )
        elif self.calls.get(layer, 1) > 1:  # one node for several calls: their channels cannot be told apart
            self._fix(node, f"{name} is called {self.calls[layer]} times in one forward pass")

    def _set_moved(self, node: Any, name: str, layer: MovesChannels) -> None:
        graph, sources = self.graph, np.array(layer.sources())
        self.starts[node] = graph.moved[name] = graph.span(layer.in_channels)
        self.ends[node] = graph.passing[name] = graph.span(len(sources))
        made = np.flatnonzero(sources != NOTHING)
        graph.links.append((self.starts[node].first + sources[made], self.ends[node].first + made))

    def _fix_without_gradient(self) -> None:
        """Layers that no gradient reaches stay as they are: inputs and outputs."""
        for layer in self.without_gradient:
            name = self.names[layer]
            self.graph.without_gradient.append(name)
            if name in self.graph.outputs:
                spans = (self.graph.inputs[name], self.graph.outputs[name])
                # In front: of several reasons the first one is told, and this one says most.
                self.graph.fixed[:0] = [(span, f"{name} stays: {WITHOUT_GRADIENT}") for span in spans]

    def _set_links(self, node: Any) -> None:
        # torch-pruning says which nodes are read, autograd with which shapes. Both list operands in the same order once
        # parameters are left out; where their numbers differ, a node was merged from several calls.
        functions = [(f, i, nr) for i, (f, nr) in enumerate(operands(node.grad_fn)) if f is not None]
        functions = [(f, i, nr) for f, i, nr in functions if "AccumulateGrad" not in f.name()]
        if len(functions) != len(node.inputs):
            for other in [node, *node.inputs]:
                self._fix(other, f"{_called(node, self.names)} is called several times")
            return
        for source, (function, position, output) in zip(node.inputs, functions, strict=True):
            read_shape = output_shapes(function)[output]
            indices = self._indices(node, read_shape, position)
            if isinstance(indices, str):
                self._fix(source, indices)
                self._fix(node, indices)
                continue
            read, made = indices
            if _operation(source) in SPLITS:
                if saved(source.grad_fn, "dim") % len(read_shape) == 1:
                    read = read + sum(s[1] for s in output_shapes(source.grad_fn)[:output])
                elif read_shape[1] != self.ends[source].size:
                    self._fix(source, "a split cannot be followed")
                    self._fix(node, "a split cannot be followed")
                    continue
            self.graph.links.append((self.ends[source].first + read, self.starts[node].first + made))

    def _indices(self, node: Any, read: tuple[int, ...], position: int) -> tuple[np.ndarray, np.ndarray] | str:
        """Channels of the operand at `position`, of shape `read`, and the channels of `node` that they become."""
        layer, made, operation = node.module, tuple(output_shapes(node.grad_fn)[0]), _operation(node)
        if len(read) < 2:
            return f"{_called(node, self.names)} reads a tensor without channels"
        same = np.arange(read[1])
        if isinstance(layer, (*LAYERS, *PER_CHANNEL, Moving)):
            known = self.starts[node].size == read[1]
            return (same, same) if known else f"{_called(node, self.names)} reads {read[1]} channels"
        if isinstance(layer, Entry) or operation in ("Neighbours", *SPLITS):
            return same, same
        if layer in self.names:
            return f"{self.names[layer]} is a {type(layer).__name__}, which reads channels together"
        if operation == "Cat":
            return self._concatenated(node, read, position)
        unknown = f"they pass an operation that may mix or move channels ({operation})"
        # Nothing tells what a reshape does but its shapes: safe are those that leave the channels' axis alone, and a
        # flattened map, whose channel c becomes the features c H W to (c + 1) H W - 1.
        if operation in RESHAPES:
            if made[:2] == read[:2]:
                return same, same
            each = prod(read[2:])
            flat = made == (read[0], read[1] * each)
            return (np.repeat(same, each), np.arange(read[1] * each)) if flat else unknown
        if operation not in CHANNEL_WISE:
            return unknown
        if operation == "Slice" and saved(node.grad_fn, "dim") % len(read) == 1:
            start, end, step = (saved(node.grad_fn, what) for what in ("start", "end", "step"))
            return same[start:end:step], np.arange(made[1])
        # The traced batch is of two images: an axis of size one is a broadcast, not a batch of one.
        if 1 in _dims_touched(node.grad_fn, operation, len(read)) or len(made) < 2 or made[0] != read[0]:
            return unknown
        if read[1] != made[1]:
            return f"they meet other channels in a broadcast ({_called(node, self.names)})"
        if operation not in ("Mean", "Sum", "Squeeze", "Unsqueeze") and len(read) != len(made):
            return unknown
        return same, same

    def _concatenated(self, node: Any, read: tuple[int, ...], position: int) -> tuple[np.ndarray, np.ndarray] | str:
        same, made = np.arange(read[1]), output_shapes(node.grad_fn)[0]
        if saved(node.grad_fn, "dim") % len(read) != 1:
            return same, same
        # Of a constant autograd keeps no record: its size is what the others leave of the whole, if there is only one.
        sizes = [f and output_shapes(f)[nr][1] for f, nr in operands(node.grad_fn)]
        if sizes.count(None) > 1:
            return "they are concatenated with constants"
        sizes = [made[1] - sum(filter(None, sizes)) if size is None else size for size in sizes]
        return same, same + sum(sizes[:position])

    def _fix(self, node: Any, reason: str) -> None:
        self.graph.fixed += [(span, reason) for span in {self.starts[node], self.ends[node]}]


def _operation(node: Any) -> str:
    return node.grad_fn.name().split("Backward")[0]


def _called(node: Any, names: dict[nn.Module, str]) -> str:
    return names.get(node.module) or _operation(node)


def _dims_touched(function: Any, operation: str, dims: int) -> set[int]:
    """The axes that an operation sums over, moves, inserts or pads."""
    if operation in ("Mean", "Sum"):
        over = saved(function, "dim")
        return {d % dims for d in over} if over else set(range(dims))
    if operation == "Transpose":
        return {saved(function, "dim0") % dims, saved(function, "dim1") % dims}
    if operation == "Permute":
        return {i for i, d in enumerate(saved(function, "dims")) if d % dims != i}
    if operation == "Unsqueeze":
        return {1} if saved(function, "dim") % (dims + 1) < 2 else set()
    if operation == "Squeeze":
        over = saved(function, "dim")
        over = (over,) if isinstance(over, int) else over or ()
        return {d % dims for d in over if d % dims < 2}
    if operation == "ConstantPadNd":
        return {dims - 1 - i // 2 for i, amount in enumerate(saved(function, "pad")) if amount}
    return set()
