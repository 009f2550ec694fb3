"""Where the entries of a dense weight lie in the factors of its SVD form: as in channels-last memory.

Legend: G groups, O out channels and I in channels of one group, K kernel entries; A and B the kernel entries along the
axes that the first and the second factor work along, R rank.

The product of the factors, `(G, O B, A I)`, then is the kernel in channels-last memory as it stands, and each factor is
the kernel of its own convolution. Only a vertical-first spatial SVD has its axes the other way round, and is copied.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from lowrank_exp.decomposition import SVDDecomposition
from lowrank_exp.decomposition.choice import kinds_by_name


def names_with_form() -> list[str]:
    """The names of the decompositions that have an SVD form: their classes say `first_axes`.

    >>> set(names_with_form()) >= {"channel_svd", "linear_svd", "spatial_svd"}, "tucker1" in names_with_form()
    (True, False)
    """
    by_svd = {name: kind for name, kind in kinds_by_name().items() if issubclass(kind, SVDDecomposition)}
    return sorted(name for name, kind in by_svd.items() if kind.first_axes is not SVDDecomposition.first_axes)


@dataclass(frozen=True)
class Layout:
    """The sizes of a layer and which of its axes the first factor works along.

    `out_channels` and `in_channels` are those of one group.
    """

    groups: int
    out_channels: int
    in_channels: int
    kernel_size: tuple[int, ...]
    first: tuple[bool, ...]

    @classmethod
    def of(cls, layer: nn.Module, decomposition: SVDDecomposition) -> "Layout":
        """The layout of a convolution or linear layer.

        Raises:
            ValueError: the decomposition has no such form.
        """
        first = decomposition.first_axes(layer)
        if first is None:
            raise ValueError(
                f"{decomposition.name} has no SVD form, its class says no first_axes; there is one of "
                f"{', '.join(names_with_form())}"
            )
        if isinstance(layer, nn.Linear):
            return cls(1, layer.out_features, layer.in_features, (), first)
        groups, kernel_size = layer.groups, tuple(layer.kernel_size)
        return cls(groups, layer.out_channels // groups, layer.in_channels // groups, kernel_size, first)

    @property
    def A(self) -> int:
        """Kernel entries of the first factor."""
        return math.prod(self._sizes(self.first))

    @property
    def B(self) -> int:
        """Kernel entries of the second factor."""
        return math.prod(self._sizes(self._second))

    def from_svd(self, U_GMR: Tensor, V_GRN: Tensor) -> tuple[Tensor, Tensor]:
        """Factors in the order of `SVDDecomposition.matrices` (rows I A, columns B O), in ours: rows A I, columns O B.

        Both are views of contiguous `(G, R, A I)` and `(G, O B, R)`.
        """
        U_GRAI = U_GMR.unflatten(1, (self.in_channels, self.A)).permute(0, 3, 2, 1)
        V_GOBR = V_GRN.unflatten(2, (self.B, self.out_channels)).permute(0, 3, 2, 1)
        return U_GRAI.flatten(2).contiguous().mT, V_GOBR.flatten(1, 2).contiguous().mT

    def to_svd(self, U_GMR: Tensor, V_GRN: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes `from_svd`."""
        U_GIAR = U_GMR.unflatten(1, (self.A, self.in_channels)).transpose(1, 2)
        V_GRBO = V_GRN.unflatten(2, (self.out_channels, self.B)).transpose(2, 3)
        return U_GIAR.flatten(1, 2), V_GRBO.flatten(2)

    def kernel(self, product_GNM: Tensor) -> Tensor:
        """The dense kernel `(G, O, I, *K)` of the transposed product of the factors, a view."""
        sizes = (*self._sizes(self._second), *self._sizes(self.first))
        kernel_GOBAI = product_GNM.view(self.groups, self.out_channels, *sizes, self.in_channels)
        axes = [axis for axis, kept in enumerate(self.first) if not kept]
        axes += [axis for axis, kept in enumerate(self.first) if kept]
        places = [2 + axes.index(axis) for axis in range(len(axes))]
        return kernel_GOBAI.permute(0, 1, 2 + len(axes), *places)

    def first_kernel(self, U_GRM: Tensor) -> Tensor:
        """The first factor, `(G, R, A I)`, as a kernel `(G, R, I, *K)`, a view."""
        sizes = self._along(self.first)
        return U_GRM.view(*U_GRM.shape[:2], *sizes, self.in_channels).movedim(-1, 2)

    def second_kernel(self, V_GNR: Tensor) -> Tensor:
        """The second factor, `(G, O B, R)`, as a kernel `(G, O, R, *K)`, a view."""
        sizes = self._along(self._second)
        return V_GNR.view(self.groups, self.out_channels, *sizes, V_GNR.shape[2]).movedim(-1, 2)

    @property
    def _second(self) -> tuple[bool, ...]:
        return tuple(not kept for kept in self.first)

    def _sizes(self, kept: tuple[bool, ...]) -> tuple[int, ...]:
        return tuple(size for size, one in zip(self.kernel_size, kept, strict=True) if one)

    def _along(self, kept: tuple[bool, ...]) -> tuple[int, ...]:
        return tuple(size if one else 1 for size, one in zip(self.kernel_size, kept, strict=True))
