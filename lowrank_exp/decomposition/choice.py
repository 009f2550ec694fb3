"""Which decomposition a layer gets: one for convolutions, one for linear layers, exceptions by the layer's name."""

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Decompositions:
    """The decomposition of convolutions, that of linear layers, and exceptions by layer name; None leaves alone."""

    conv: Decomposition | None
    linear: Decomposition | None
    layers: Mapping[str, Decomposition | None] = field(default_factory=dict)

    @classmethod
    def of(cls, given: "str | Decomposition | Mapping | Decompositions") -> "Decompositions":
        """From a name or an object, or a mapping with `conv`, `linear` and `layers` (by name or `re:` pattern).

        Linear layers get linear SVD beside a decomposition of convolutions alone.

        >>> Decompositions.of("channel_svd").linear.name
        'linear_svd'
        """
        if isinstance(given, Decompositions):
            return given
        if isinstance(given, Mapping):
            if unknown := set(given) - {"conv", "linear", "layers"}:
                raise ValueError(f"decomposition takes the keys conv, linear and layers, got {sorted(unknown)}")
            exceptions = {key: _one(value) for key, value in (given.get("layers") or {}).items()}
            return cls(_one(given.get("conv")), _one(given.get("linear", "linear_svd")), exceptions)
        one = _one(given)
        if isinstance(one, LinearSVD):
            return cls(None, one)
        return cls(one, one if isinstance(one, ProductQuantization) else LinearSVD())

    def by_layer(self, layers: Mapping[str, nn.Module]) -> dict[str, Decomposition | None]:
        """The decomposition of every layer, by name.

        Raises:
            ValueError: an exception that names no layer.
        """
        exceptions = by_layer(self.layers, layers, "decomposition.layers")
        ordinary = {n: self.conv if isinstance(layer, CONVOLUTIONS) else self.linear for n, layer in layers.items()}
        return ordinary | exceptions


def _one(given: Any) -> Decomposition | None:
    if given is None or isinstance(given, Decomposition):
        return given
    if isinstance(given, str):
        return named(given)
    raise ValueError(f"a decomposition is a name or a Decomposition, got {given!r}")
