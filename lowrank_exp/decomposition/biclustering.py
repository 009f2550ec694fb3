"""Biclustering: blocks of in channels by out channels, cut along the seams that k-means finds, each of low rank.

Legend: L groups of the layer, O out channels and I in channels of one of them; G clusters of in channels, H clusters of
out channels (the paper's letters); B blocks, L G H in all, each of J = I / G in channels, X kernel entries and
P = O / H out channels; K, or K1 and K2, ranks of a block.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.decomposition.base import Decomposition, Rank, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.als_options import ALSOptions
from lowrank_exp.decomposition.fitting.cp_als import cp_als, cp_exact
from lowrank_exp.decomposition.fitting.cp_energies import estimated_energies
from lowrank_exp.decomposition.fitting.equal_clusters import equal_clusters
from lowrank_exp.decomposition.fitting.gram import channel_unfoldings
from lowrank_exp.decomposition.fitting.hooi import along_spectra, flat_spectra, hooi, kept_shares
from lowrank_exp.decomposition.svd import wrong_kind
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.network.cost import CONVOLUTIONS

INNER = ("outer", "svd")
TOLERANCE = 1e-5  # alternating least squares ends after two sweeps that lower the error by less than this share


class Biclustering(Decomposition):
    r"""Cluster the in channels and the out channels by their slices of the kernel; cut every block to a low rank.

    k-means parts the slices `W[:, i]` into G equal clusters and, on its own, the slices `W[o]` into H. A block of in
    cluster g and out cluster h, `(J, X, P)`, becomes either

    .. math:: \sum_{k=1}^{K} a_k \circ b_k \circ c_k \quad \text{("outer")} \qquad \text{or} \qquad
              \sum_{k_1=1}^{K_1} \sum_{k_2=1}^{K_2} u_{k_1} \circ M_{k_1 k_2} \circ v_{k_2} \quad \text{("svd")}

    with vectors b over the kernel entries, and kernels M. The chain: a `Reorder` of the inputs by cluster; a 1 x 1
    convolution with G groups; the spatial convolution with the settings of the dense layer (one kernel per map, or from
    K1 to K2 maps within each of the G H blocks); a `Reorder` from blocks (g, h) to (h, g); a 1 x 1 convolution with H
    groups, which adds up over g and has the bias; a `Reorder` of the outputs. A layer that has groups is treated group
    by group with the same numbers. Works on convolutions of one to three axes, transposed too.

    The rank is K, full at X min(J, P), or (K1, K2), full at (min(J, X P), min(P, X J)). The full rank is exact for any
    clusters. "outer" is found by alternating least squares (`cp_als`; at full rank by SVDs of the slices, `cp_exact`),
    "svd" by the orthogonal iteration of both channel modes (`hooi`), for all blocks at once.

    Args:
        in_clusters: G, a divisor of the in channels of one group.
        out_clusters: H, a divisor of the out channels of one group.
        inner: "outer" or "svd".
        seed: of the clustering and of the starts of "outer".
        restarts: of the clustering.
        iterations: sweeps over the factors of the blocks at most.

    Raises:
        ValueError: clusters, restarts or iterations below 1, or an unknown `inner`.

    Source: Denton, Zaremba, Bruna, LeCun, Fergus 2014, "Exploiting linear structure within convolutional networks for
    efficient evaluation", the biclustering approximations.

    Differs from the paper:
        1. The terms of "outer" are fitted together; the paper subtracts the best rank-1 term of what is left, K times.
        2. "svd" alternates its two subspaces until little is gained; the paper computes each once.
        3. The paper's printed reductions for conv2 (256 filters 5 x 5 over 96 channels) do not follow from its numbers:
           "outer" with G = 48, H = 2, K = 6 has 6.88 times fewer weights (printed 5.3; K = 8 gives 5.16), and "svd"
           with G = H = 2, K1 = 19, K2 = 24 has 9.98 times fewer (printed 3.9, which K2 = 64 gives).
        4. Subspace clustering, which the paper mentions beside k-means, is not offered.
    """

    name = "biclustering"
    cuts = 2

    def __init__(
        self,
        in_clusters: int = 2,
        out_clusters: int = 2,
        inner: str = "outer",
        seed: int = 0,
        restarts: int = 10,
        iterations: int = 100,
    ) -> None:
        counts = {
            "in_clusters": in_clusters,
            "out_clusters": out_clusters,
            "restarts": restarts,
            "iterations": iterations,
        }
        for word, count in counts.items():
            wrong = f"{word} of {self.name} must be an integer of at least 1, got {count!r}"
            whole(word, count, message=wrong)
        one_of("inner", inner, INNER, f"inner of {self.name} must be one of {', '.join(INNER)}, got {inner!r}")
        self.in_clusters = in_clusters
        self.out_clusters = out_clusters
        self.inner = inner
        self.seed = seed
        self.restarts = restarts
        self.iterations = iterations
        self.als = ALSOptions(tolerance=TOLERANCE, max_iterations=iterations, seed=seed)

    def options(self) -> dict[str, Any]:
        return {
            "in_clusters": self.in_clusters,
            "out_clusters": self.out_clusters,
            "inner": self.inner,
            "seed": self.seed,
            "restarts": self.restarts,
            "iterations": self.iterations,
        }

    def refusal(self, layer: nn.Module) -> str | None:
        if wrong := wrong_kind(layer, self.name, CONVOLUTIONS):
            return wrong
        for word, channels, clusters in (
            ("in", layer.in_channels // layer.groups, self.in_clusters),
            ("out", layer.out_channels // layer.groups, self.out_clusters),
        ):
            if channels % clusters:
                divisors = [str(n) for n in range(1, channels + 1) if channels % n == 0]
                return (
                    f"{word}_clusters={clusters} does not divide the {channels} {word} channels of a group into equal "
                    f"clusters; take {', '.join(divisors)}"
                )
        return None

    def full_rank(self, layer: nn.Module) -> Rank:
        _, J, X, P = self._shape(layer)
        return X * min(J, P) if self.inner == "outer" else (min(J, X * P), min(P, X * J))

    def ladder(self, layer: nn.Module) -> list[Rank]:
        """Every K; or pairs from (1, 1) to full, each with one rank more, in proportion to the full ones."""
        full = self.full_rank(layer)
        return list(range(1, full + 1)) if self.inner == "outer" else along_spectra(flat_spectra(full))

    def rank_left(self, factors: nn.Module, rank: Rank) -> Rank:
        """That of a block: the first convolution puts out maps for all H out clusters."""
        first, *others = super().rank_left(factors, (0,))
        return first // self.out_clusters if isinstance(rank, int) else (first // self.out_clusters, *others)

    def factor_weights(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        B, J, X, P = self._shape(layer)
        if self.inner == "outer":
            return B * np.outer(np.asarray(ranks), (J, X, P))
        return B * np.array([(J * K1, K1 * X * K2, K2 * P) for K1, K2 in ranks])

    def skeleton(self, layer: nn.Module, rank: Rank, device: Any = None) -> nn.Sequential:
        device = layer.weight.device if device is None else device
        L, G, H, everywhere = layer.groups, self.in_clusters, self.out_clusters, (True,) * axes(layer)
        K1, K2 = (rank, rank) if self.inner == "outer" else rank
        seen, given = L * G * H * K1, L * G * H * K2
        spatial = given if self.inner == "outer" else L * G * H
        turned = torch.arange(given).reshape(L, G, H, K2).transpose(1, 2).flatten()
        bias = layer.bias is not None
        return nn.Sequential(
            Reorder(torch.arange(layer.in_channels), device=device),
            pointwise_like(layer, layer.in_channels, seen, bias=False, groups=L * G, device=device),
            convolution_like(layer, seen, given, keep=everywhere, bias=False, groups=spatial, device=device),
            Reorder(turned, device=device),
            pointwise_like(layer, given, layer.out_channels, bias=bias, groups=L * H, device=device),
            Reorder(torch.arange(layer.out_channels), device=device),
        )

    def factorize(self, layer: nn.Module, rank: Rank) -> nn.Sequential:
        """The chain of three convolutions between three orders of the channels.

        Raises:
            ValueError: a rank out of range.
        """
        rank = self.check_rank(layer, rank)
        blocks_BPJX, inputs, outputs = self._blocks(layer)
        L, G, H, ones = layer.groups, self.in_clusters, self.out_clusters, (1,) * axes(layer)
        if self.inner == "outer":
            if rank == self.full_rank(layer):
                fit = cp_exact(blocks_BPJX, batch_axes=1)
            else:
                fit = cp_als(blocks_BPJX, rank, batch_axes=1, **asdict(self.als))
            last_BPK, first_BJK, b_BXK = fit.factors
            middle = b_BXK.mT.reshape(-1, 1, 1, *layer.kernel_size)
        else:
            last_BPK, core_BQKX, first_BJK = hooi(blocks_BPJX, rank, self.iterations)
            middle = core_BQKX.unflatten(3, layer.kernel_size)
        P, K = last_BPK.shape[1:]
        last_LHPGK = last_BPK.reshape(L, G, H, P, K).permute(0, 2, 3, 1, 4)
        weights = (
            first_BJK.mT.flatten(0, 1).unflatten(1, (-1, *ones)),
            weight_like(layer, middle),
            last_LHPGK.reshape(L * H * P, G * K, *ones),
        )
        chain = self.skeleton(layer, rank)
        chain[0].order.copy_(inputs)
        chain[5].order.copy_(outputs.argsort())
        return fill_(chain, weights, layer, None if layer.bias is None else layer.bias.detach()[outputs])

    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """Share of the squared norm kept at `ranks`.

        "outer": an estimate from short fits at six ranks, see `estimated_energies`. "svd": what the truncated HOSVD of
        the blocks keeps; the orthogonal iteration keeps more.
        """
        if self.inner == "svd":
            return self.kept_at(self.kept_tables(layer), ranks)
        return estimated_energies(self._blocks(layer)[0], ranks, self.full_rank(layer), self.als)

    def kept_tables(self, layer: nn.Module) -> tuple[np.ndarray, ...]:
        """Of "svd" the share at every pair of ranks."""
        return (kept_shares(self._blocks(layer)[0]),) if self.inner == "svd" else ()

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        """The in and the out unfolding of every block, which counts as a group."""
        return channel_unfoldings(self._blocks(layer)[0])

    def _shape(self, layer: nn.Module) -> tuple[int, int, int, int]:
        """B, J, X, P."""
        L, G, H = layer.groups, self.in_clusters, self.out_clusters
        return L * G * H, layer.in_channels // L // G, int(np.prod(layer.kernel_size)), layer.out_channels // L // H

    def _blocks(self, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """The blocks `(B, P, J, X)`, and the channel at every place of the order by cluster: `(L I,)` and `(L O,)`."""
        B, J, X, P = self._shape(layer)
        blocks, inputs, outputs = [], [], []
        for group, kernel_OIX in enumerate(kernel_GOIK(layer).flatten(3)):
            O, I, _ = kernel_OIX.shape
            places_I = self._by_cluster(kernel_OIX.transpose(0, 1).flatten(1), self.in_clusters)
            places_O = self._by_cluster(kernel_OIX.flatten(1), self.out_clusters)
            ordered_HPGJX = kernel_OIX[places_O][:, places_I].reshape(self.out_clusters, P, self.in_clusters, J, X)
            blocks.append(ordered_HPGJX.permute(2, 0, 1, 3, 4))
            inputs.append(places_I + group * I)
            outputs.append(places_O + group * O)
        return torch.stack(blocks).reshape(B, P, J, X), torch.cat(inputs), torch.cat(outputs)

    def _by_cluster(self, slices_ND: Tensor, clusters: int) -> Tensor:
        points = slices_ND.double().cpu().numpy()
        labels = equal_clusters(points, clusters, seed=self.seed, restarts=self.restarts)
        return torch.from_numpy(np.argsort(labels, kind="stable")).to(slices_ND.device)
