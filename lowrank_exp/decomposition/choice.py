"""Which decomposition a layer gets: one for convolutions, one for linear layers; by object or by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank_exp.cost import CONVOLUTIONS
from lowrank_exp.decomposition.base import Decomposition
from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.linear_svd import LinearSVD
from lowrank_exp.decomposition.spatial_svd import SpatialSVD

# A file names a decomposition by these names, never by an import path.
_NAMES: dict[str, type[Decomposition]] = {kind.name: kind for kind in (ChannelSVD, SpatialSVD, LinearSVD)}


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
    """The decomposition of convolutions and that of linear layers; None leaves such layers alone."""

    conv: Decomposition | None
    linear: Decomposition | None

    @classmethod
    def of(cls, given: "str | Decomposition | Mapping | Decompositions") -> "Decompositions":
        """From a name or an object (linear layers then get linear SVD beside it), or a mapping with conv and linear.

        >>> Decompositions.of("channel_svd").linear.name
        'linear_svd'
        """
        if isinstance(given, Decompositions):
            return given
        if isinstance(given, Mapping):
            if unknown := set(given) - {"conv", "linear"}:
                raise ValueError(f"decomposition takes the keys conv and linear, got {sorted(unknown)}")
            return cls(_one(given.get("conv")), _one(given.get("linear", "linear_svd")))
        one = _one(given)
        return cls(None, one) if isinstance(one, LinearSVD) else cls(one, LinearSVD())

    def for_layer(self, layer: nn.Module) -> Decomposition | None:
        """The decomposition meant for layers of this kind."""
        return self.conv if isinstance(layer, CONVOLUTIONS) else self.linear


def _one(given: Any) -> Decomposition | None:
    if given is None or isinstance(given, Decomposition):
        return given
    if isinstance(given, str):
        return named(given)
    raise ValueError(f"a decomposition is a name or a Decomposition, got {given!r}")
