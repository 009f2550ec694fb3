"""The forward pass of a network as a list of steps, which can stop before a layer and go on from there."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowrank_exp.reconstruct.passes import forward

Values = dict[str, Any]  # what earlier steps gave and later ones read, by the name of the step
Watch = Callable[[Tensor, Tensor], None]  # gets the input and the output of one call


class Steps:
    """The steps of one network's forward pass, as `torch.fx` traces it; modules without chosen layers are one step.

    Args:
        network: in evaluation mode; takes one tensor.
        names: of the chosen layers.

    Raises:
        ValueError: the network cannot be traced, or what is traced is not what it does with `images`.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)).eval()
    >>> steps = Steps(net, ["0", "2"], torch.ones(1, 2))
    >>> values = steps.run(steps.start(torch.ones(1, 2)), 0, steps.first["2"])
    >>> [value.shape for value in values.values()]
    [torch.Size([1, 2])]
    """

    def __init__(self, network: nn.Module, names: Iterable[str], images: Tensor) -> None:
        self.network, names = network, list(names)
        layers = {network.get_submodule(name): name for name in names}
        try:
            self._nodes = list(_Tracer(layers).trace(network).nodes)
        except Exception as error:  # whatever the network's own code raises where it meets no tensors
            raise ValueError(f"{type(error).__name__}: {error}") from error
        calls = [(place, node.target) for place, node in enumerate(self._nodes) if node.op == "call_module"]
        self.first = {name: place for place, name in reversed(calls) if name in names}
        self.last = {name: place for place, name in calls if name in names}
        if missing := [name for name in names if name not in self.first]:
            raise ValueError(f"{missing[0]} is not called as a module")
        end = 1 + max(self.last.values())
        places = {node: place for place, node in enumerate(self._nodes[:end])}
        self._read_last = {node: max((places[u] for u in node.users if u in places), default=-1) for node in places}
        self._compare(layers, images)

    def start(self, images: Tensor) -> Values:
        """What there is before the first step."""
        return {"": images}

    def run(
        self,
        values: Values,
        start: int,
        stop: int,
        instead: Mapping[str, nn.Module] | None = None,
        watch: Mapping[str, Watch] | None = None,
    ) -> Values:
        """The steps from `start` up to, and without, `stop`; `values` is used up.

        Args:
            values: from `start`, or what a run that stopped at `start` gave.
            start: a place in the list.
            stop: another one.
            instead: modules that are called in the place of layers.
            watch: shown every call of layers.

        Returns:
            What the steps from `stop` on read.
        """
        for place in range(start, stop):
            node = self._nodes[place]
            values[node.name] = self._value(node, values, instead or {}, watch or {})
            for read in {node, *node.all_input_nodes}:
                if self._read_last[read] <= place:
                    values.pop(read.name, None)
        if stop > 0:
            values.pop("", None)
        return values

    def _value(
        self, node: fx.Node, values: Values, instead: Mapping[str, nn.Module], watch: Mapping[str, Watch]
    ) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node, values)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda read: self._read(read, values))
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return None  # read where it is needed, so that no constant is kept among the values
        module = instead[node.target] if node.target in instead else self.network.get_submodule(node.target)
        output = module(*args, **kwargs)
        if node.target in watch:
            watch[node.target](args[0] if args else kwargs["input"], output)
        return output

    def _read(self, node: fx.Node, values: Values) -> Any:
        return operator.attrgetter(node.target)(self.network) if node.op == "get_attr" else values[node.name]

    def _placeholder(self, node: fx.Node, values: Values) -> Any:
        if node is self._nodes[0]:
            return values[""]
        if node.target.startswith("*"):
            return {} if node.target.startswith("**") else ()
        return node.args[0]

    def _compare(self, layers: Mapping[nn.Module, str], images: Tensor) -> None:
        """Every call of every layer, of the network and of its steps.

        What tracing has frozen, such as a condition on the images or a number that was drawn, may be another thing now.
        """
        whole: list[tuple[str, Tensor]] = []
        steps: list[tuple[str, Tensor]] = []
        see = {layer: lambda x, y, name=name: whole.append((name, y.clone())) for layer, name in layers.items()}
        forward(self.network, images.clone(), see)
        try:
            watch = {name: lambda x, y, name=name: steps.append((name, y.clone())) for name in layers.values()}
            self.run(self.start(images.clone()), 0, 1 + max(self.last.values()), watch=watch)
        except Exception as error:
            raise ValueError(f"its steps fail ({type(error).__name__}: {error})") from error
        alike = [name for name, _ in whole] == [name for name, _ in steps]
        if not alike or not all(torch.equal(one, other) for (_, one), (_, other) in zip(whole, steps, strict=True)):
            raise ValueError("its steps do not do what it does")


class _Tracer(fx.Tracer):
    """Goes into modules that hold chosen layers, and into no others."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self._layers = set(layers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._layers or self._layers.isdisjoint(m.modules())
