"""What makes a function a constructor of our zoo: its network remembers how it was built."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from torch import nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.models.weights import load_weights_

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)

SHARED = ("num_classes", "in_channels", "input_size", "weights")


def network(constructor: Callable[P, Network]) -> Callable[P, Network]:
    """Mark a function as a constructor of the zoo.

    The function must take `num_classes`, `in_channels`, `input_size` (the side of a square image) and
    `weights`; all its other arguments must be plain JSON values. Signature and docstring stay. A call

    1. refuses a `num_classes`, `in_channels` or `input_size` that is not a positive whole number;
    2. records on the module `zoo = {"name": ..., "arguments": {...}}`: every argument, defaults too, but
       not `weights`, so that `build(**module.zoo)` gives the same network again, and
       `input_shape = (C, H, W)`, which the data adapts to;
    3. loads `weights` (a path, see `load_weights_`) unless it is None; a warning says what was taken of a file that
       holds more than the network's tensors under its own names.

    Raises:
        TypeError: while decorating, if one of the four arguments is missing; in a call, as Python does.
        ValueError: from step 1, from the constructor itself, or from `load_weights_`.

    >>> from lowrank_exp.models import lenet5
    >>> lenet5(num_classes=7).zoo
    {'name': 'lenet5', 'arguments': {'num_classes': 7, 'in_channels': 1, 'input_size': 32, 'width': 1.0}}
    """
    name = constructor.__name__
    signature = inspect.signature(constructor)
    missing = [argument for argument in SHARED if argument not in signature.parameters]
    if missing:
        raise TypeError(f"{name} cannot be a network of the zoo: it must also take {', '.join(missing)}")

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> Network:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}; its arguments are {', '.join(signature.parameters)}") from None
        bound.apply_defaults()
        arguments = {argument: plain(value) for argument, value in bound.arguments.items()}
        weights = arguments.pop("weights")
        for argument in ("num_classes", "in_channels", "input_size"):
            check_whole(argument, arguments[argument])
        module = constructor(**arguments)
        side = arguments["input_size"]
        module.zoo = {"name": name, "arguments": arguments}
        module.input_shape = (arguments["in_channels"], side, side)
        if weights is not None and (taken := load_weights_(module, weights)):
            warnings.warn(taken, stacklevel=2)
        return module

    return construct


def plain(value: Any) -> Any:
    """`value` with its mappings and sequences, of whatever kind, as dicts and lists: as JSON would give it back.

    >>> import types
    >>> plain(types.MappingProxyType({"blocks": (3, 4)}))
    {'blocks': [3, 4]}
    """
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def check_whole(name: str, value: object, at_least: int = 1) -> None:
    """Raise ValueError unless `got` is an integer of `at_least` or more.

    >>> check_whole("num_classes", 0)
    Traceback (most recent call last):
    ValueError: num_classes=0, but it must be a whole number, 1 or more
    """
    whole(name, value, at_least, f"{name}={value!r}, but it must be a whole number, {at_least} or more")


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless `got` is one of `allowed`."""
    one_of(name, value, allowed, f"{name}={value!r}, but it must be one of {', '.join(allowed)}")
