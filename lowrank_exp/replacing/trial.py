"""A trial: the network is run with stand-ins in the places of its layers, and must do what it did."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import one_image
from lowrank_exp.network.modes import evaluating
from lowrank_exp.network.wrappers import set_layer_
from lowrank_exp.replacing.holders import find_holders
from lowrank_exp.replacing.observed import Pass, kept_state, observe
from lowrank_exp.replacing.stand_in import StandIn
from lowrank_exp.replacing.unsafe import plain_layers, unsafe

UNCALLED = "the network's forward pass does not call it"
IDLE = "a parent reads its weight, or it is not used"


def trial(model: nn.Module, example_input: Tensor) -> dict[str, str]:
    """Reasons, by layer name, why convolutions and linear layers of `model` must be left alone.

    Beside what `unsafe` tells, they are found by running the first image of `example_input` through `model` as it is,
    and with a `StandIn` in the place of every layer: a fresh layer with the same weights and another, that is not
    called, in an `nn.Sequential`. The modules called, every operation with the shapes and numbers it gets, and the
    outputs must be the same. A layer that has attributes read or set that an `nn.Sequential` has not, is called with
    more than its input, is reached (or its weight is) by another way than its place, or has a hook that changes
    anything is told by that one pass; what else goes wrong is found by bisection. `model` is run where it lies, in
    evaluation mode, and is afterwards as it was; on the meta device outputs are compared by their shapes.

    Where an image is one number all over, random numbers in [0, 1) take its place.

    Raises:
        Whatever the network raises on the example.
    """
    refused = unsafe(model)
    layers = {name: layer for name, layer in plain_layers(model) if name not in refused}
    if not layers:
        return refused
    with evaluating(model):
        faults = _Trial(model, layers, _make_lively(one_image(model, example_input))).faults()
    return {name: faults.get(name, refused.get(name)) for name, _ in model.named_modules() if name in faults | refused}


class _Trial:
    """Passes through one network, with stand-ins for any of `layers`."""

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> None:
        self.model, self.layers, self.x = model, layers, x
        self.names = {id(module): name for name, module in model.named_modules()}
        self.reasons: dict[str, str] = {}
        self.compared = {"error", "calls", "operations", "outputs"}
        self.wanted = self.run([])
        if self.wanted.error is not None:
            raise self.wanted.error
        self.called = set(self.wanted.calls)

    def faults(self) -> dict[str, str]:
        """Why layers must be left alone, by name."""
        # One pass with all stand-ins at once suffices for most networks. Only where it differs is the plain network run
        # again, to leave out what differs anyhow (a counter, a random draw that no seed governs), and only where more
        # than that differs are layers tried in halves.
        if not self.good(list(self.layers)):
            first = self.last
            self._leave_out_what_varies()
            if first.differs(self.wanted) & self.compared:
                self._try_in_halves([], [name for name in self.layers if name in self.called])
        uncalled = [name for name in self._without_reasons(list(self.layers)) if name not in self.called]
        return self.reasons | dict.fromkeys(uncalled, f"{UNCALLED}: {IDLE}")

    def _try_in_halves(self, good: Sequence[str], more: Sequence[str]) -> list[str]:
        """`good` and those of `more` that can be replaced together with it; why the others cannot goes to `reasons`."""
        good, more = self._without_reasons(good), self._without_reasons(more)
        if not more:
            return good
        if self.good([*good, *more]):
            return self._without_reasons([*good, *more])
        if self._without_reasons(more) != more:  # the pass itself told some layers: without them the rest may do
            return self._try_in_halves(good, more)
        if len(more) == 1:
            self.reasons[more[0]] = self._explain(more[0], self.last)
            return good
        # The second half is tried beside what is good of the first: layers may spoil one another only together.
        middle = len(more) // 2
        return self._try_in_halves(self._try_in_halves(good, more[:middle]), more[middle:])

    def _without_reasons(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.reasons]

    def good(self, names: Sequence[str]) -> bool:
        """Whether the network does the same with stand-ins for `names`; what they saw goes to `reasons`."""
        self.last = self.run(names)
        return not self.last.differs(self.wanted) & self.compared

    def run(self, names: Sequence[str]) -> Pass:
        """A pass with stand-ins for `names`."""
        stand_ins = {name: StandIn(self.layers[name]) for name in names}
        known = self.names | {id(stand_in): name for name, stand_in in stand_ins.items()}
        with kept_state(self.model):
            for name, stand_in in stand_ins.items():
                set_layer_(self.model, name, stand_in)
            seen = observe(self.model, self.x, known)
        for name, stand_in in stand_ins.items():
            layer = self.layers[name]
            if id(layer) in seen.used:
                self.reasons[name] = describe_holder(self.model, name)
            elif (fault := stand_in._seen.fault()) is not None:
                self.reasons[name] = fault if name in self.called else f"{UNCALLED}: {fault}"
            elif any(id(parameter) in seen.used for parameter in layer.parameters()):  # by who is not called itself
                self.reasons[name] = describe_holder(self.model, name)
        return seen

    def _leave_out_what_varies(self) -> None:
        """Compare no more what differs between two passes of the network as it is."""
        again = self.run([])
        self.compared -= again.differs(self.wanted)
        self.wanted = again

    def _explain(self, name: str, seen: Pass) -> str:
        parent = type(self.model.get_submodule(name.rpartition(".")[0])).__name__
        if seen.error is not None:
            message = f"{type(seen.error).__name__}: {seen.error}".splitlines()[0]
            return f"the network fails with an nn.Sequential in its place, within {parent}: {message:.150}"
        what = "computes something else" if self.wanted.differs(seen) - {"calls"} else "calls other modules"
        looks = f"its parent, {parent}, looks at its type or parameters"
        return f"{looks}: with an nn.Sequential in its place the network {what}"


def describe_holder(model: nn.Module, name: str) -> str:
    """That a layer of `model` is reached by another way than its place, and by which."""
    where = find_holders(model, [name]).get(name)
    return f"it is also held by `{where}`" if where else "it is also held by something outside of the network"


def _make_lively(x: Tensor) -> Tensor:
    """`x`, or random numbers where it says nothing."""
    if x.is_meta or not x.is_floating_point() or not x.numel() or not bool((x == x.flatten()[0]).all()):
        return x
    draw = torch.Generator().manual_seed(0)
    return torch.rand(x.shape, generator=draw).to(x.device, x.dtype)
