"""Product quantization: every block of a weight becomes one of k centroids, and an index says which.

Legend: N blocks (sub-vectors) of a weight, D entries of a block, K centroids, O out channels, I in channels of a group.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.decomposition.codebook import Codebook, as_stored, index_bits, with_codebook_
from lowrank_exp.decomposition.convolution import plain_like
from lowrank_exp.decomposition.fitting.kmeans import distinct, kmeans, lloyd, nearest
from lowrank_exp.decomposition.numbers import numbers
from lowrank_exp.decomposition.svd import wrong_kind
from lowrank_exp.network.cost import macs_of_factors

MEASURED = 2048  # highest rank whose energy is measured
SAMPLE = 2**15  # blocks that measure it
_STORED = {"float16": torch.float16, "float32": torch.float32}
_WORDS = {"centroids": tuple(_STORED), "gradient": ("sum", "mean")}


class ProductQuantization(Decomposition):
    r"""Cut every row of the weight into blocks and replace each block by the nearest of k centroids.

    .. math:: \min_{c_1 \dots c_k} \sum_{n=1}^{N} \min_j \| v_n - c_j \|^2

    A row is one out channel, `(I, *kernel)` in natural order, or one out feature; so no block reaches across out
    channels or groups. All blocks of a layer share one codebook `(k, D)`. The rank is k, from 1 to N; where there are
    at most k distinct blocks, all of them are kept, exactly but for the type of the centroids (float16: 2^-11 of each
    entry, for entries from 6.1e-5 to 65504 in size; below, 3e-8).

    The layer keeps its type and settings; its weight is parametrized by `Codebook`, whose centroids go on learning.
    MACs and weights are those of the dense layer at every rank; what falls is the bytes of the weight in a file:

    .. math:: \lceil N \lceil \log_2 k \rceil / 8 \rceil + k D b, \quad b = 2 \text{ or } 4 \text{ bytes}

    Source: Stock, Joulin, Gribonval, Graham, Jégou 2020, "And the bit goes down".

    Differs from the paper:
        1. The error is that of the weight, not that of the outputs on data.
        2. The iterations end early when fewer than 1 in 100 blocks change their centroid. Beyond max(2^18, 64 k)
           blocks, a part of so many is clustered; see `kmeans`.
        3. An empty cluster takes half of the cluster with the largest error, not of the one with the most blocks,
           whose blocks may all be the same (zeros after pruning), and by a distance relative to that cluster.

    Args:
        kernels_per_block: kernels in one block of a convolution: D = 9 at 3 x 3, and 18 with two kernels.
        pointwise_block: D of convolutions whose kernel has one entry.
        linear_block: D of linear layers.
        iterations: of k-means, at most.
        centroids: their type in a file, float16 or float32. The layer computes in its own type; its centroids are
            rounded to that of the file here, and after further training again when the file is written.
        gradient: of a centroid: the mean over its blocks, as in the paper, or their sum, which is the gradient of the
            loss and asks for a far smaller learning rate: a centroid may have hundreds of blocks.
        seed: of k-means.

    >>> layer = nn.Conv2d(64, 64, 3)
    >>> quantized = ProductQuantization().factorize(layer, 16)
    >>> quantized.weight.shape, quantized.parametrizations.weight.original.shape
    (torch.Size([64, 64, 3, 3]), torch.Size([16, 9]))
    >>> 4 * layer.weight.numel(), ProductQuantization().rank_bytes(layer, [16]).tolist()
    (147456, [2336])
    """

    name = "product_quantization"
    saves = ("bytes",)
    why_no_fit = "its weights share their code words"
    why_no_unfoldings = "its rank counts centroids, which the rank of no matrix bounds"
    fits = frozenset()

    def __init__(
        self,
        kernels_per_block: int = 1,
        pointwise_block: int = 4,
        linear_block: int = 4,
        iterations: int = 100,
        centroids: str = "float16",
        gradient: str = "mean",
        seed: int = 0,
    ) -> None:
        self.kernels_per_block, self.pointwise_block, self.linear_block = (
            kernels_per_block,
            pointwise_block,
            linear_block,
        )
        self.iterations, self.centroids, self.gradient, self.seed = iterations, centroids, gradient, seed
        for option, value in self.options().items():
            if option in _WORDS:
                wrong = f"{option} must be {' or '.join(_WORDS[option])}, got {value!r}"
                one_of(option, value, _WORDS[option], wrong)
            else:
                least = 0 if option == "seed" else 1
                whole(option, value, least, f"{option} must be an integer, at least {least}, got {value!r}")

    def options(self) -> dict[str, Any]:
        return dict(vars(self))

    def refusal(self, layer: nn.Module) -> str | None:
        if reason := wrong_kind(layer, self.name, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            return reason
        row, option = prod(layer.weight.shape[1:]), self._option(layer)
        if row % self.block(layer):
            return (
                f"{self.name} cuts rows of {row} entries into blocks of {self.block(layer)}, which does not divide "
                f"them; set another {option}"
            )
        return None

    def full_rank(self, layer: nn.Module) -> int:
        return layer.weight.numel() // self.block(layer)

    def block(self, layer: nn.Module) -> int:
        """D, entries of a block."""
        entries = prod(layer.kernel_size) if self._option(layer) == "kernels_per_block" else 1
        return entries * getattr(self, self._option(layer))

    def ladder(self, layer: nn.Module) -> list[Rank]:
        """The powers of two from 2 on, and the full rank."""
        full = self.full_rank(layer)
        powers = [2**bits for bits in range(1, full.bit_length())]
        return powers if powers and powers[-1] == full else [*powers, full]

    def clamped(self, layer: nn.Module, k: int) -> int:
        """`k`, or the largest power of two strictly below N / 4 where that is less (at least 1): the paper's rule.

        >>> ProductQuantization().clamped(nn.Conv2d(64, 64, 1), 256)  # N = 1024
        128
        """
        quarter = -(-self.full_rank(layer) // 4)  # a power of two is below N / 4 where it is below this
        return min(k, 2 ** max(0, (quarter - 1).bit_length() - 1))

    def factor_weights(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """Entries of the dense weight, at every rank, `(len(ranks), 1)`."""
        return np.full((len(ranks), 1), layer.weight.numel())

    def rank_macs(
        self, layer: nn.Module, input_shapes: tuple[tuple[int, ...], ...], ranks: Sequence[Rank] | None = None
    ) -> np.ndarray:
        """MACs of the dense layer, at every rank."""
        dense = nn.Sequential(plain_like(layer, device="meta"))
        macs = sum(macs_of_factors(dense, shape)[0] for shape in input_shapes)
        return np.full(len(self.ladder(layer) if ranks is None else ranks), macs)

    def rank_bytes(self, layer: nn.Module, ranks: Sequence[Rank] | None = None) -> np.ndarray:
        """Bytes of indices and codebook at `ranks` (those of the ladder by default), `(len(ranks),)`."""
        ranks = self.ladder(layer) if ranks is None else ranks
        N, D = self.full_rank(layer), self.block(layer)
        return np.array([-(-N * index_bits(k) // 8) + k * D * _STORED[self.centroids].itemsize for k in ranks])

    def rank_left(self, factors: nn.Module, rank: int) -> int:
        """The size of the codebook, of which pruning takes nothing."""
        return rank

    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """An estimate of the share of the squared norm of the weight that each of `ranks` keeps.

        Measured at the powers of two up to 2048 on at most 2^15 blocks, by a few iterations of k-means (256 / k, at
        least four) that go on from the centroids of the power before; linear in log2 k between them, and from the last
        of them to 1 at full rank.
        """
        vectors_ND, full = self._vectors(layer), self.full_rank(layer)
        order_N = torch.randperm(full, generator=torch.Generator().manual_seed(self.seed))
        sample_ND = vectors_ND[order_N[:SAMPLE].to(vectors_ND.device)]
        if not (total := float(sample_ND.double().square().sum())):  # zeros lose nothing at any rank
            return np.ones(len(ranks))
        end = min(full, MEASURED + 1, 2 * max(ranks))
        rungs, kept, centroids_KD = [2**bits for bits in range(full.bit_length()) if 2**bits < end], [], sample_ND[:0]
        for rung in rungs:
            more_KD = torch.cat([centroids_KD, sample_ND[len(centroids_KD) : rung]])
            centroids_KD = lloyd(sample_ND, more_KD, max(4, 256 // rung), seed=self.seed)
            lost_ND = sample_ND - centroids_KD[nearest(sample_ND, centroids_KD)]
            kept.append(1.0 - float(lost_ND.double().square().sum()) / total)
        kept = np.maximum.accumulate(np.clip([*kept, 1.0], 0.0, 1.0))
        return np.interp(np.log2(ranks), np.log2([*rungs, full]), kept)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Module:
        plain = plain_like(layer, device)
        codebook = Codebook(
            plain.weight.shape,
            self.block(layer),
            rank,
            gradient=self.gradient,
            stored=_STORED[self.centroids],
            device=plain.weight.device,
        )
        return with_codebook_(plain, codebook)

    def factorize(self, layer: nn.Module, rank: int) -> nn.Module:
        """The layer with its weight from a codebook of `rank` centroids; centroids that no block needs are 0.

        Raises:
            ValueError: a rank out of range, or centroids beyond the range of float16.
        """
        rank = self.check_rank(layer, rank)
        vectors_ND = self._vectors(layer)
        centroids_KD, assigned_N = self._quantize(vectors_ND, rank)
        quantized = self.skeleton(layer, rank)
        with torch.no_grad():
            original_KD = quantized.parametrizations.weight.original
            original_KD.zero_()[: len(centroids_KD)] = centroids_KD.to(original_KD.dtype)
            original_KD.requires_grad_(layer.weight.requires_grad)
            quantized.parametrizations.weight[0].assign_(assigned_N)
            if layer.bias is not None:
                quantized.bias.copy_(layer.bias).requires_grad_(layer.bias.requires_grad)
        return quantized.train(layer.training)

    def _quantize(self, vectors_ND: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """At most `rank` centroids, rounded as in a file but in the type of the blocks, and that of every block."""
        stored = _STORED[self.centroids]
        if (few := distinct(vectors_ND, most=rank)) is not None:
            return as_stored(few[0], stored).to(vectors_ND.dtype), few[1]
        centroids_KD = kmeans(vectors_ND, rank, iterations=self.iterations, seed=self.seed)
        rounded_KD = as_stored(centroids_KD, stored).to(vectors_ND.dtype)
        return rounded_KD, nearest(vectors_ND, rounded_KD)

    def _vectors(self, layer: nn.Module) -> Tensor:
        """The blocks of the weight, `(N, D)`, in the type of `numbers`."""
        return numbers(layer.weight).reshape(-1, self.block(layer))

    def _option(self, layer: nn.Module) -> str:
        """The option that says how long the blocks of `layer` are."""
        if isinstance(layer, nn.Linear):
            return "linear_block"
        return "pointwise_block" if prod(layer.kernel_size) == 1 else "kernels_per_block"
