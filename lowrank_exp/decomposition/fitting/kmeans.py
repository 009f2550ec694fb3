"""k-means for many short vectors, the same on every device.

Legend: N vectors, D entries of a vector, K centroids.
"""

import torch
from torch import Tensor

SCORES = 2**17  # at once: what a processor's cache holds
SPLIT = 1e-3  # of a cluster's radius


def kmeans(vectors_ND: Tensor, k: int, *, iterations: int = 100, seed: int = 0) -> Tensor:
    r"""Centroids that nearly minimize the squared error of the vectors, `(k, D)`; as many as are distinct if fewer.

    .. math:: \sum_n \min_k \| v_n - c_k \|^2

    Starts from k of the distinct vectors, drawn by `seed`, and goes on by `lloyd`. Where there are more than
    max(2^18, 64 k) vectors, so many of them are drawn for that and all take part in a last iteration.

    Args:
        vectors_ND: float32 or float64.
        k: from 1 to N.
        iterations: at most.
        seed: of the draws.

    >>> kmeans(torch.tensor([[0.0], [1.0], [9.0], [11.0]]), 2).sort(dim=0).values.tolist()
    [[0.5], [10.0]]
    """
    generator = torch.Generator().manual_seed(seed)
    drawn_ND = _draw(vectors_ND, max(2**18, 64 * k), generator)
    centroids_KD = lloyd(drawn_ND, _start(drawn_ND, k, generator), iterations, seed=seed)
    return lloyd(vectors_ND, centroids_KD, 1, seed=seed) if len(drawn_ND) < len(vectors_ND) else centroids_KD


def lloyd(vectors_ND: Tensor, centroids_KD: Tensor, iterations: int, *, settled: float = 0.01, seed: int = 0) -> Tensor:
    """Lloyd's iteration: every vector to its nearest centroid, every centroid to the mean of its vectors.

    A centroid without vectors takes one half of the cluster with the largest squared error: both start from its mean,
    moved apart by a thousandth of its radius in a random direction.

    Args:
        vectors_ND: float32 or float64.
        centroids_KD: to start from; not changed.
        iterations: at most.
        settled: share of the vectors that change their centroid at which to stop.
        seed: of the random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    assigned_N = None
    for _ in range(iterations):
        before_N, assigned_N = assigned_N, nearest(vectors_ND, centroids_KD)
        if before_N is not None and (before_N != assigned_N).sum() <= settled * len(vectors_ND):
            break
        centroids_KD, counts_K = means(vectors_ND, assigned_N, len(centroids_KD))
        if not counts_K.all():
            _split_(vectors_ND, assigned_N, centroids_KD, counts_K, generator)
    return centroids_KD


def nearest(vectors_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """Index of the nearest centroid of every vector, `(N,)`; the first of equally near ones."""
    centroids_DK = centroids_KD.t().contiguous()
    half_K = -0.5 * centroids_DK.square().sum(dim=0)
    parts = vectors_ND.split(max(64, SCORES // len(centroids_KD)))
    return torch.cat([_argmax(torch.addmm(half_K, part_ND, centroids_DK)) for part_ND in parts])


def means(vectors_ND: Tensor, assigned_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean `(k, D)` and number `(k,)` of the vectors of every cluster; the mean of none is 0. Summed in float64."""
    counts_K = torch.bincount(assigned_N, minlength=k)
    sums_KD = _sum_by_cluster(vectors_ND.double(), assigned_N, counts_K)
    return (sums_KD / counts_K.clamp(min=1)[:, None]).to(vectors_ND.dtype), counts_K


def distinct(vectors_ND: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """The distinct vectors and which of them each vector is, if there are at most `most`; else None."""
    if 4 * most < len(vectors_ND) and len(vectors_ND[: 4 * most].unique(dim=0)) > most:
        return None
    distinct_KD, which_N = vectors_ND.unique(dim=0, return_inverse=True)
    return (distinct_KD, which_N) if len(distinct_KD) <= most else None


def _start(vectors_ND: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k distinct vectors, or all."""
    choice_ND = _draw(vectors_ND, 4 * k, generator).unique(dim=0)
    if len(choice_ND) < k:
        choice_ND = vectors_ND.unique(dim=0)
    return _draw(choice_ND, k, generator)


def _draw(vectors_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if count >= len(vectors_ND):
        return vectors_ND
    return vectors_ND[torch.randperm(len(vectors_ND), generator=generator)[:count].to(vectors_ND.device)]


def _split_(
    vectors_ND: Tensor, assigned_N: Tensor, centroids_KD: Tensor, counts_K: Tensor, generator: torch.Generator
) -> None:
    """Give every empty cluster one half of a bad one, in place."""
    squared_N1 = (vectors_ND - centroids_KD[assigned_N]).double().square().sum(dim=1, keepdim=True)
    errors_K = _sum_by_cluster(squared_N1, assigned_N, counts_K)[:, 0]
    empty_E = (counts_K == 0).nonzero()[:, 0][: int((errors_K > 0).sum())]
    worst_E = errors_K.topk(len(empty_E)).indices
    radius_E = (errors_K[worst_E] / counts_K[worst_E]).sqrt().to(vectors_ND.dtype)
    direction_ED = torch.randn(len(empty_E), vectors_ND.shape[1], generator=generator, dtype=torch.float64)
    direction_ED /= direction_ED.norm(dim=1, keepdim=True)
    move_ED = SPLIT * radius_E[:, None] * direction_ED.to(vectors_ND)
    centroids_KD[empty_E] = centroids_KD[worst_E] + move_ED
    centroids_KD[worst_E] -= move_ED


def _argmax(scores_NK: Tensor) -> Tensor:
    """The first of the highest scores of every vector."""
    if scores_NK.is_cpu:  # NumPy's is ten times as fast as torch's
        return torch.from_numpy(scores_NK.numpy().argmax(axis=1))
    return scores_NK.argmax(dim=1)


def _sum_by_cluster(values_ND: Tensor, assigned_N: Tensor, counts_K: Tensor) -> Tensor:
    """Sum of the values of every cluster, `(K, D)`, in the same order at every call (as adding by index is not)."""
    return torch.segment_reduce(values_ND[assigned_N.argsort(stable=True)], "sum", lengths=counts_K)
