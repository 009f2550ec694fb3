"""Which decomposition a layer gets: one for convolutions, one for linear layers, exceptions by the layer's name.

Each may be several, of which a rank policy chooses one for every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank_exp.cost import CONVOLUTIONS
from lowrank_exp.decomposition.base import Decomposition
from lowrank_exp.decomposition.biclustering import Biclustering
from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.cp import CP
from lowrank_exp.decomposition.grouped_channel_svd import GroupedChannelSVD
from lowrank_exp.decomposition.jaderberg_scheme1 import JaderbergScheme1
from lowrank_exp.decomposition.linear_svd import LinearSVD
from lowrank_exp.decomposition.monochromatic import Monochromatic
from lowrank_exp.decomposition.product_quantization import ProductQuantization
from lowrank_exp.decomposition.slice_wise_svd import SliceWiseSVD
from lowrank_exp.decomposition.spatial_svd import SpatialSVD
from lowrank_exp.decomposition.tensor_train import TensorTrain
from lowrank_exp.decomposition.tucker import Tucker1, Tucker2
from lowrank_exp.names import by_layer

# A file names a decomposition by these names, never by an import path.
_NAMES: dict[str, type[Decomposition]] = {
    kind.name: kind
    for kind in (
        Biclustering,
        ChannelSVD,
        CP,
        GroupedChannelSVD,
        JaderbergScheme1,
        LinearSVD,
        Monochromatic,
        ProductQuantization,
        SliceWiseSVD,
        SpatialSVD,
        TensorTrain,
        Tucker1,
        Tucker2,
    )
}


def named(name: str, **options: Any) -> Decomposition:
    """The decomposition called `name`, with its constructor's `options`.

    Raises:
        ValueError: an unknown name; the message lists the known ones.

    >>> named("spatial_svd").name
    'spatial_svd'
    """
    if name not in _NAMES:
        raise ValueError(f"unknown decomposition {name!r}; known: {', '.join(sorted(_NAMES))}")
    return _NAMES[name](**options)


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

        Linear layers get linear SVD beside a decomposition of convolutions alone.

        >>> Decompositions.of("channel_svd").linear[0].name
        'linear_svd'
        """
        if isinstance(given, Decompositions):
            return given
        if isinstance(given, Mapping):
            if unknown := set(given) - {"conv", "linear", "layers"}:
                raise ValueError(f"decomposition takes the keys conv, linear and layers, got {sorted(unknown)}")
            exceptions = {key: _some(value) for key, value in (given.get("layers") or {}).items()}
            return cls(_some(given.get("conv")), _some(given.get("linear", "linear_svd")), exceptions)
        some = _some(given)
        for_linear = tuple(kind for kind in some if isinstance(kind, LinearSVD | ProductQuantization))
        return cls(tuple(kind for kind in some if not isinstance(kind, LinearSVD)), for_linear or (LinearSVD(),))

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
        found = self.choices(layers)
        for name, kinds in found.items():
            if len(kinds) > 1:
                raise ValueError(
                    f"{name} may be decomposed by {', '.join(kind.name for kind in kinds)}: ranks alone do not say by "
                    "which. Give one decomposition, or a plan (lowrank_exp.allocate with policy knapsack)"
                )
        return {name: kinds[0] if kinds else None for name, kinds in found.items()}


def _some(given: Any) -> Kinds:
    if isinstance(given, Sequence) and not isinstance(given, str):
        kinds = tuple(kind for one in given for kind in _some(one))
        same = [kind for place, kind in enumerate(kinds) if (kind.name, kind.options()) in _told(kinds[:place])]
        if same:
            raise ValueError(f"{same[0].name} with the options {same[0].options()} is listed twice")
        return kinds
    if given is None:
        return ()
    if isinstance(given, Decomposition):
        return (given,)
    if isinstance(given, str):
        return (named(given),)
    raise ValueError(f"a decomposition is a name, a Decomposition or a list of them, got {given!r}")


def _told(kinds: Kinds) -> list[tuple[str, dict[str, Any]]]:
    return [(kind.name, kind.options()) for kind in kinds]
