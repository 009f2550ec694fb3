"""Where a network holds layers beside their places: in lists, dictionaries, partials, closures and other objects."""

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import nn

PLAIN = (str, bytes, int, float, complex, type, types.ModuleType)
CLOSED = ("builtins", "torch", "numpy")  # packages whose objects are not looked into, but for containers and modules


def find_holders(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Of `layers`, by name, those that an attribute of a module of `model` holds as well: the attribute's name.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> net.order = {"first": [net[0]]}
    >>> find_holders(net, ["0"])
    {'0': 'order'}
    """
    names = {id(model.get_submodule(name)): name for name in layers}
    known = {id(module): module for module in model.modules()}
    own = vars(nn.Module()).keys()
    holder_of: dict[str, str] = {}
    for name, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if attribute not in own:
                for layer in _reached(value, names, known):
                    holder_of.setdefault(layer, f"{name}.{attribute}".lstrip("."))
    return holder_of


def _reached(value: Any, names: Mapping[int, str], known: dict[int, Any]) -> Iterator[str]:
    """The layers that can be reached from `value` without going through a module of the network."""
    stack = [value]
    while stack:
        value = stack.pop()
        if id(value) in names:
            yield names[id(value)]
        if isinstance(value, PLAIN) or value is None or id(value) in known:
            continue
        known[id(value)] = value
        stack += _inside(value)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | Set | deque):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        return [*_cells(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, nn.Module):
        return [vars(value)]
    if type(value).__module__.split(".")[0] in CLOSED:
        return []
    slots = [getattr(value, slot, None) for kind in type(value).__mro__ for slot in _slots(kind)]
    return [*slots, vars(value)] if hasattr(value, "__dict__") else slots


def _cells(function: types.FunctionType) -> list[Any]:
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return contents


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
