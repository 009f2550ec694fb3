"""Which decomposition a layer gets: one for convolutions, one for linear layers, exceptions by the layer's name.

Each may be several, of which a rank policy chooses one for every layer.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank_exp.decomposition.base import Decomposition, path_of
from lowrank_exp.network.cost import CONVOLUTIONS
from lowrank_exp.network.names import by_layer

# Any decomposition is asked whether it takes layers like these, of sizes that nearly all blocks and groups divide.
_LINEAR = nn.Linear(5040, 5040, device="meta")
_CONVOLUTION = nn.Conv2d(5040, 5040, 3, device="meta")


def decomposition_named(name: str, **options: Any) -> Decomposition:
    """The decomposition called `name`, with its constructor's `options`.

    Raises:
        ValueError: an unknown name, with the known ones, or options that it does not take.

    >>> decomposition_named("spatial_svd").name
    'spatial_svd'
    """
    kind = kinds_by_name().get(name) or _import_by_name(name)
    if kind is None:
        raise ValueError(
            f"unknown decomposition {name!r}; known: {', '.join(sorted(kinds_by_name()))}. One of your own is "
            "known as soon as its class is made: import the module that defines it first"
        )
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"{name} ({path_of(kind)}) cannot be made with the options {options}: {error}") from error


def kinds_by_name() -> dict[str, type[Decomposition]]:
    """The classes of all decompositions that were made so far, ours and others."""
    return dict(Decomposition._named)


def _import_by_name(name: str) -> type[Decomposition] | None:
    """One of ours in a file of its name, which nothing has imported yet."""
    try:
        importlib.import_module(f"{__package__}.{name}")
    except (ImportError, ValueError):
        return None
    return kinds_by_name().get(name)


Kinds = tuple[Decomposition, ...]


@dataclass(frozen=True)
class Decompositions:
    """The decompositions of convolutions, of linear layers, and exceptions by layer name; none leaves a layer alone."""

    conv: Kinds
    linear: Kinds
    layers: Mapping[str, Kinds] = field(default_factory=dict)

    @classmethod
    def of(cls, given: "str | Decomposition | Sequence | Mapping | Decompositions") -> "Decompositions":
        """From a name or an object or a list of them, or a mapping with `conv`, `linear` and `layers` (by name or
        `re:` pattern).

        Each goes to the layers that it takes; linear layers get linear SVD beside decompositions of convolutions alone.

        >>> Decompositions.of("channel_svd").linear[0].name
        'linear_svd'
        """
        if isinstance(given, Decompositions):
            return given
        if isinstance(given, Mapping):
            if unknown := set(given) - {"conv", "linear", "layers"}:
                raise ValueError(f"decomposition takes the keys conv, linear and layers, got {sorted(unknown)}")
            exceptions = {key: _list_kinds(value) for key, value in (given.get("layers") or {}).items()}
            return cls(_list_kinds(given.get("conv")), _list_kinds(given.get("linear", "linear_svd")), exceptions)
        some = _list_kinds(given)
        linear = tuple(kind for kind in some if kind.refusal(_LINEAR) is None)
        conv = tuple(kind for kind in some if kind not in linear or kind.refusal(_CONVOLUTION) is None)
        return cls(conv, linear or _list_kinds("linear_svd"))

    def choices(self, layers: Mapping[str, nn.Module]) -> dict[str, Kinds]:
        """The decompositions of every layer, by name.

        Raises:
            ValueError: an exception that names no layer.
        """
        exceptions = by_layer(self.layers, layers, "decomposition.layers")
        ordinary = {n: self.conv if isinstance(layer, CONVOLUTIONS) else self.linear for n, layer in layers.items()}
        return ordinary | exceptions

    def by_layer(self, layers: Mapping[str, nn.Module]) -> dict[str, Decomposition | None]:
        """The one decomposition of every layer, by name; None leaves it alone.

        Raises:
            ValueError: an exception that names no layer, or a layer has several decompositions.
        """
        choices = self.choices(layers)
        for name, kinds in choices.items():
            if len(kinds) > 1:
                raise ValueError(
                    f"{name} may be decomposed by {', '.join(kind.name for kind in kinds)}: ranks alone do not say by "
                    "which. Give one decomposition, or a plan (lowrank_exp.allocate with policy knapsack)"
                )
        return {name: kinds[0] if kinds else None for name, kinds in choices.items()}


def _list_kinds(given: Any) -> Kinds:
    if isinstance(given, Sequence) and not isinstance(given, str):
        kinds = tuple(kind for one in given for kind in _list_kinds(one))
        same = [
            kind for place, kind in enumerate(kinds) if (kind.name, kind.options()) in _names_and_options(kinds[:place])
        ]
        if same:
            raise ValueError(f"{same[0].name} with the options {same[0].options()} is listed twice")
        return kinds
    if given is None:
        return ()
    if isinstance(given, Decomposition):
        return (_check_rebuildable(given),)
    if isinstance(given, str):
        return (decomposition_named(given),)
    raise ValueError(f"a decomposition is a name, a Decomposition or a list of them, got {given!r}")


def _check_rebuildable(kind: Decomposition) -> Decomposition:
    """`kind`, of which a file can say what it is: by its name and options.

    Raises:
        ValueError: it has no name of its own, or does not tell its options.
    """
    of, name = type(kind), getattr(kind, "name", None)
    if "name" not in of.__dict__ or path_of(kinds_by_name().get(name, object)) != path_of(of):
        raise ValueError(
            f"{path_of(of)} has no name of its own (got {name!r}): plans and files know a decomposition by the name "
            "that its class says; add a line such as name = 'my_svd' to the class"
        )
    if of.options is Decomposition.options and (taken := list(inspect.signature(of).parameters)):
        raise ValueError(
            f"{name} ({path_of(of)}) takes {', '.join(taken)}, but does not tell them: its options() must return its "
            "constructor's arguments, from which files build it again"
        )
    return kind


def _names_and_options(kinds: Kinds) -> list[tuple[str, dict[str, Any]]]:
    return [(kind.name, kind.options()) for kind in kinds]
