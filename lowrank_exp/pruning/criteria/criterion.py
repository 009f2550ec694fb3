"""What a criterion is: one score per filter of a layer, the lowest to be removed first.

Legend: N images, O filters (out channels) of a layer, S sums, T statistics; z a map `(N, O, ...)`, g the derivative of
each image's own loss by it, M positions of a map.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lowrank_exp.checks import one_of

PLACES = ("relu", "layer")


class WeightCriterion(ABC):
    """Scores the filters of a layer from its parameters; a frozen dataclass of its options."""

    needs_norm: ClassVar[bool] = False
    """Whether it looks at the batch norm behind the layer."""

    @abstractmethod
    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        """The score of every filter, `(O,)`.

        Args:
            name: of the layer.
            layer: a convolution, transposed or not, or a linear layer.
            norm: the batch norm behind it, for criteria that need one.
        """


@dataclass(frozen=True, kw_only=True)
class DataCriterion(ABC):
    """Scores the filters of a layer from the maps that they make of images, or from the loss's derivative by them.

    The score is a function of means over the images of statistics that each image has alone, so it does not depend on
    how the images are dealt out to batches. Of a map, sums over its positions are taken first (`of_map`; those of a
    layer that is called several times are added up), from them each image's statistics (`of_images`), and from their
    means over all images the score (`score`).

    Args:
        at: which map is meant: `relu`, behind the layer's batch norm and activation function; or `layer`, the layer's
            own output. Where the map goes on to something else first (as the last one of a residual block, which is
            added to the shortcut), `relu` is the map up to there.

    Raises:
        ValueError: another place.
    """

    at: str = "relu"
    needs_gradient: ClassVar[bool]

    def __post_init__(self) -> None:
        one_of(f"{type(self).__name__}: at", self.at, PLACES)

    @abstractmethod
    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        """S sums over the positions of one map, each `(N, O)`; g is None where no gradient is needed."""

    @abstractmethod
    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        """T statistics of each image, `(T, N, O)`, from float64 sums over M positions."""

    @abstractmethod
    def score(self, means_TO: Tensor) -> Tensor:
        """The score of every filter, `(O,)`, from the means of the statistics over all images."""


def over_positions(x: Tensor) -> Tensor:
    """The sum over the positions of a map: `(N, O, ...)` to `(N, O)`."""
    return x.sum(dim=tuple(range(2, x.dim()))) if x.dim() > 2 else x
