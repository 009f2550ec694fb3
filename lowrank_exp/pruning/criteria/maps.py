"""The maps that layers make while a network runs, behind their batch norm and activation function.

Networks call activation functions as modules or not, and some add to a map in place. So every function of torch that
the network calls is looked at: a map is followed from its layer through a batch norm and one pointwise function, as
long as that is the first that takes it, and a map that is kept is copied before something is written into it.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NONLINEARITIES = {
    *(functional.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, functional.relu6, functional.hardtanh),
    *(functional.leaky_relu, functional.elu, functional.silu, functional.gelu, functional.hardswish, functional.mish),
}
NORMS = {functional.batch_norm, torch.batch_norm}

Kept = list[Tensor]  # one tensor, which is replaced by a copy of itself before the memory it lies in is written to


class Maps(TorchFunctionMode):
    """While it is entered, every map of the layers is handed over once, as soon as it is known to be the one meant.

    Args:
        layers: names by layer.
        at: `relu` or `layer`, see `DataCriterion`.
        take: gets a layer's name and its map, and returns what it keeps of it, if anything.
    """

    def __init__(self, layers: Mapping[nn.Module, str], at: str, take: Callable[[str, Tensor], Kept | None]) -> None:
        super().__init__()
        self._layers, self._at, self._take = layers, at, take
        # By identity of the tensor; a weak reference tells whether it still is the same one.
        self._underway: dict[int, tuple[weakref.ref, str, bool]] = {}
        self._kept: dict[int, tuple[weakref.ref, Kept]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Maps":
        self._hooks = [layer.register_forward_hook(self._take_output) for layer in self._layers]
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        if error[0] is None:
            for map_, name, _ in self._underway.values():
                if (z := map_()) is not None:
                    self._hand_over(name, z)
        self._underway.clear()
        self._kept.clear()

    def _take_output(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        if self._at == "layer":
            self._hand_over(self._layers[layer], output)
        else:
            self._underway[id(output)] = weakref.ref(output), self._layers[layer], False

    def _hand_over(self, name: str, z: Tensor) -> None:
        kept = self._take(name, z)
        if kept is not None:
            self._kept[id(z)] = weakref.ref(z), kept

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in _flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
        underway = [z for z in tensors if self._is(z, self._underway)]
        writes = _writes(function, kwargs)
        if writes and function not in NONLINEARITIES:
            for z in underway:
                self._hand_over(self._underway.pop(id(z))[1], z)
            underway = []
        if writes:
            for z in tensors:
                if self._is(z, self._kept):
                    kept = self._kept.pop(id(z))[1]
                    kept[0] = kept[0].clone()
        result = function(*args, **kwargs)
        if not underway or not any(isinstance(value, Tensor) for value in _flat((result,))):
            return result
        for z in underway:
            _, name, normed = self._underway.pop(id(z))
            if function in NONLINEARITIES:
                self._hand_over(name, result)
            elif function in NORMS and not normed:
                self._underway[id(result)] = weakref.ref(result), name, True
            else:
                self._hand_over(name, z)
        return result

    @staticmethod
    def _is(z: Tensor, known: Mapping[int, tuple]) -> bool:
        return id(z) in known and known[id(z)][0]() is z


def _flat(values: tuple) -> list:
    return [x for value in values for x in (value if isinstance(value, tuple | list) else (value,))]


def _writes(function: Callable, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of torch writes into a tensor that it is given."""
    name = getattr(function, "__name__", "")
    augmented = name.startswith("__i") and name not in ("__invert__", "__index__", "__int__", "__iter__")
    in_place = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or augmented
    return in_place or kwargs.get("inplace") is True or kwargs.get("out") is not None
