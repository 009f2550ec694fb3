"""Monochromatic filters: a few colour directions, each seen by as many two-dimensional filters.

Legend: G groups, O out channels and I in channels of one group, X all kernel entries, C colours of one group (C' in the
paper), K the kernel's axes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.decomposition.base import Decomposition, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.equal_clusters import balanced_assignment, equal_clusters, lines
from lowrank_exp.decomposition.fitting.gram import unfolded
from lowrank_exp.decomposition.svd import wrong_kind
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.network.cost import CONVOLUTIONS

CENTRES = ("best", "mean")


class Monochromatic(Decomposition):
    r"""Every filter becomes one two-dimensional filter of one colour; the filters of a group share C colours equally.

    .. math:: W_f \approx u_{c(f)} v_f^T, \qquad v_f = W_f^T u_{c(f)}, \qquad W_f \in R^{I \times X}

    The leading left singular vectors of the W_f, as lines (u and -u are one colour), are put into C equal clusters; u_c
    is a unit vector for all filters of its cluster, and v_f the best filter given it. The chain is a 1 x 1 convolution
    into the C colour maps of each group, a convolution in which each colour map serves its own O / C filters, with the
    settings of the dense layer and its bias, and a `Reorder` to the order of the dense layer's outputs.

    The rank is C, a divisor of O. At the full rank O every filter keeps the colour of its own, which is exact where
    each W_f has rank 1: one in channel (at any rank, then), 1 x 1 kernels, and planted monochromatic kernels, which
    are exact at every rank whose equal clusters part their colours. It is not exact in general. Works on convolutions
    of one to three axes, transposed too.

    Args:
        centres: "best", the leading left singular vector of all W_f of the cluster side by side, alternating with the
            assignment that keeps most of the weight until nothing is gained; "mean", the mean line of the cluster's
            directions, without alternation. "best" starts from the clusters of "mean" and keeps no less.
        seed, restarts: of the clustering.

    Raises:
        ValueError: an unknown `centres`, or no restart.

    Source: Denton, Zaremba, Bruna, LeCun, Fergus 2014, "Exploiting linear structure within convolutional networks for
    efficient evaluation", the monochromatic approximation.

    Differs from the paper:
        1. Directions are clustered as lines, because the sign of a singular vector is not a property of the filter.
        2. centres="best" minimizes the error of the weight; the paper's centres ("mean") that of the directions, in
           which a filter of small norm counts as much as any other.
        3. v_f is the least-squares filter for the shared colour; the paper keeps the singular vector of f alone.
    """

    name = "monochromatic"
    cuts = 1

    def __init__(self, centres: str = "best", seed: int = 0, restarts: int = 10) -> None:
        allowed = f"must be one of {', '.join(CENTRES)}, got {centres!r}"
        one_of("centres", centres, CENTRES, f"centres of {self.name} {allowed}")
        wrong = f"restarts of {self.name} must be an integer of at least 1, got {restarts!r}"
        whole("restarts", restarts, message=wrong)
        self.centres = centres
        self.seed = seed
        self.restarts = restarts

    def options(self) -> dict[str, Any]:
        return {"centres": self.centres, "seed": self.seed, "restarts": self.restarts}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def full_rank(self, layer: nn.Module) -> int:
        return layer.out_channels // layer.groups

    def ladder(self, layer: nn.Module) -> list[int]:
        """The divisors of the out channels of one group."""
        O = self.full_rank(layer)
        return [C for C in range(1, O + 1) if O % C == 0]

    def check_rank(self, layer: nn.Module, rank: Any, layer_name: str = "layer") -> int:
        """`rank` as an int.

        Raises:
            ValueError: not an integer, or no divisor of the out channels of one group.
        """
        rank = super().check_rank(layer, rank, layer_name)
        if rank not in (divisors := self.ladder(layer)):
            raise ValueError(
                f"{layer_name}: rank {rank} does not divide the {divisors[-1]} out channels of a group into equal "
                f"clusters; {self.name} takes the ranks {', '.join(map(str, divisors))} here"
            )
        return rank

    def factor_weights(self, layer: nn.Module, ranks: Sequence[int]) -> np.ndarray:
        filters = layer.out_channels * int(np.prod(layer.kernel_size))
        return np.array([(layer.in_channels * C, filters) for C in ranks])

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        device = layer.weight.device if device is None else device
        maps, everywhere, bias = layer.groups * rank, (True,) * axes(layer), layer.bias is not None
        return nn.Sequential(
            pointwise_like(layer, layer.in_channels, maps, bias=False, device=device),
            convolution_like(layer, maps, layer.out_channels, keep=everywhere, bias=bias, groups=maps, device=device),
            Reorder(torch.arange(layer.out_channels), device=device),
        )

    def factorize(self, layer: nn.Module, rank: int) -> nn.Sequential:
        """A 1 x 1 convolution to the colours, the filters of each colour, and the outputs in order again.

        Raises:
            ValueError: a rank that does not divide the out channels of one group.
        """
        rank = self.check_rank(layer, rank)
        weights_GOIX = kernel_GOIK(layer).flatten(3)
        G, O, I, _ = weights_GOIX.shape
        labels_GO, colours_GCI = self._cluster(weights_GOIX, rank)
        places_GO = labels_GO.argsort(dim=1, stable=True)  # out channel at every place of the second layer
        places = (places_GO + O * torch.arange(G, device=places_GO.device)[:, None]).flatten()

        filters_GOX = _filters(weights_GOIX, labels_GO, colours_GCI)
        ones, kernel = (1,) * axes(layer), layer.kernel_size
        first = colours_GCI.reshape(G * rank, I, *ones)
        second = weight_like(layer, filters_GOX.flatten(0, 1)[places].reshape(G * rank, O // rank, 1, *kernel))
        chain = self.skeleton(layer, rank)
        chain[2].order.copy_(places.argsort())
        return fill_(chain, (first, second), layer, None if layer.bias is None else layer.bias.detach()[places])

    def energies(self, layer: nn.Module, ranks: Sequence[int]) -> np.ndarray:
        """Share of the squared norm kept, measured at each of `ranks` and made rising by a running maximum.

        With more colours the filters can be parted better, but a clustering that is found need not be the best one.
        """
        weights_GOIX = kernel_GOIK(layer).flatten(3)
        total = float(weights_GOIX.double().square().sum())
        if total == 0:  # a layer of zeros loses nothing at any rank
            return np.ones(len(ranks))
        checked = [self.check_rank(layer, rank) for rank in ranks]
        kept = {}
        for C in sorted(set(checked)):
            filters_GOX = _filters(weights_GOIX, *self._cluster(weights_GOIX, C))
            kept[C] = max([min(float(filters_GOX.double().square().sum()) / total, 1.0), *kept.values()])
        return np.array([kept[C] for C in checked])

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int]]:
        """The in unfolding `(I, O X)`: filters of C colours have none of a rank above C."""
        return (unfolded(kernel_GOIK(layer).flatten(3).transpose(1, 2).flatten(2)),)

    def _cluster(self, weights_GOIX: Tensor, C: int) -> tuple[Tensor, Tensor]:
        """Cluster of every filter, `(G, O)`, and colour of every cluster, `(G, C, I)`."""
        groups = [self._of_group(weight_OIX, C) for weight_OIX in weights_GOIX]
        return torch.stack([labels_O for labels_O, _ in groups]), torch.stack([colours_CI for _, colours_CI in groups])

    def _of_group(self, weight_OIX: Tensor, C: int) -> tuple[Tensor, Tensor]:
        directions_OI1 = torch.linalg.svd(weight_OIX, full_matrices=False)[0][:, :, :1]
        points = lines(directions_OI1[:, :, 0].double().cpu().numpy())
        labels = equal_clusters(points, C, seed=self.seed, restarts=self.restarts)
        labels_O = torch.from_numpy(labels).to(weight_OIX.device)
        if self.centres == "mean":
            return labels_O, _leading(directions_OI1, labels_O)[0]

        colours_CI, kept = _leading(weight_OIX, labels_O)
        while True:
            kept_OC = (colours_CI @ weight_OIX).square().sum(dim=2)
            next_O = torch.from_numpy(balanced_assignment(-kept_OC.double().cpu().numpy())).to(labels_O.device)
            next_CI, reached = _leading(weight_OIX, next_O)
            if not reached > kept:
                return labels_O, colours_CI
            labels_O, colours_CI, kept = next_O, next_CI, reached


def _leading(weight_OIX: Tensor, labels_O: Tensor) -> tuple[Tensor, float]:
    """The leading left singular vector of every cluster's W_f side by side, `(C, I)`, and the squared norm all keep.

    The largest entry of every vector is positive.
    """
    O, I, _ = weight_OIX.shape
    C = int(labels_O.max()) + 1
    members_CNIX = weight_OIX[labels_O.argsort(stable=True)].reshape(C, O // C, I, -1)
    members_CIY = members_CNIX.transpose(1, 2).flatten(2)
    if members_CIY.shape[2] > I:  # wide: the Gram matrix is far smaller
        squares_CI, vectors_CII = torch.linalg.eigh(members_CIY @ members_CIY.mT)
        colours_CI, kept = vectors_CII[:, :, -1], squares_CI[:, -1].sum()
    else:
        vectors_CIR, values_CR, _ = torch.linalg.svd(members_CIY, full_matrices=False)
        colours_CI, kept = vectors_CIR[:, :, 0], values_CR[:, 0].square().sum()
    largest_C1 = colours_CI.gather(1, colours_CI.abs().argmax(dim=1, keepdim=True))
    return colours_CI * largest_C1.sign(), float(kept)


def _filters(weights_GOIX: Tensor, labels_GO: Tensor, colours_GCI: Tensor) -> Tensor:
    """`v_f = W_f^T u_c(f)`, `(G, O, X)`."""
    own_GOI = torch.stack([colours_CI[labels_O] for colours_CI, labels_O in zip(colours_GCI, labels_GO, strict=True)])
    return torch.einsum("goi,goix->gox", own_GOI, weights_GOIX)
