"""k-means whose clusters are all of the same size.

Legend: N points, D coordinates of each, K clusters; every cluster has N / K points.
"""

import warnings

import numpy as np


def equal_clusters(points_ND: np.ndarray, clusters: int, *, seed: int = 0, restarts: int = 10) -> np.ndarray:
    r"""The cluster of every point, `(N,)`, clusters of equal size with a small sum of squared distances to the means.

    .. math:: \min_{c} \sum_{n=1}^{N} \| x_n - \mu_{c(n)} \|^2
              \quad\text{with}\quad |\{n : c(n) = k\}| = N / K,\; \mu_k = \text{mean of cluster } k

    Every restart takes the centres of scikit-learn's `KMeans`, then alternates two steps, each of which is optimal with
    the other held (`balanced_assignment`, means), until the sum no longer falls; the restart with the lowest sum is
    returned. Where the best of `KMeans(clusters, n_init=restarts, random_state=seed)` is balanced already, the sum is
    no higher than its inertia. Clusters are numbered in the order of their first points. The same seed gives the same
    clusters.

    Args:
        points_ND: finite numbers, `(N, D)`.
        clusters: K, which must divide N.
        seed: of the starts; no global generator is touched.
        restarts: number of starts, at least 1.

    Raises:
        ValueError: `clusters` does not divide N, or no restart.

    Source: Denton, Zaremba, Bruna, LeCun, Fergus 2014, "Exploiting linear structure within convolutional networks for
    efficient evaluation", which asks for clusters of equal size.

    Differs from the paper:
        1. The paper does not say how the sizes are kept equal; here it is by an optimal assignment.

    >>> equal_clusters(np.array([[0.0], [9.0], [1.0], [8.0]]), 2).tolist()
    [0, 1, 0, 1]
    """
    points_ND = np.asarray(points_ND, dtype=np.float64)
    N = len(points_ND)
    if clusters < 1 or N % clusters:
        raise ValueError(f"{N} points cannot be put into {clusters} equal clusters; take a divisor of {N}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    if clusters in (1, N):
        return np.arange(N) * clusters // N
    points_ND = points_ND - points_ND.mean(axis=0)  # distances are then free of cancellation
    clusterings = [_settle(points_ND, centres_KD) for centres_KD in _starts(points_ND, clusters, seed, restarts)]
    best_N = min(clusterings, key=lambda labels_N: scatter(points_ND, labels_N))
    _, first_K, labels_N = np.unique(best_N, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_K))[labels_N]


def balanced_assignment(cost_NK: np.ndarray) -> np.ndarray:
    """The cluster of every point, `(N,)`, with the lowest sum of costs among all assignments to clusters of equal size.

    With two clusters this is a sort of the differences; otherwise the assignment problem in which every cluster stands
    N / K times.

    >>> balanced_assignment(np.array([[0.0, 5.0], [0.0, 1.0], [0.0, 2.0], [0.0, 9.0]])).tolist()
    [0, 1, 1, 0]
    """
    N, K = cost_NK.shape
    if K == 2:
        labels_N = np.zeros(N, dtype=np.int64)
        labels_N[np.argsort(cost_NK[:, 1] - cost_NK[:, 0], kind="stable")[: N // 2]] = 1
        return labels_N
    from scipy.optimize import linear_sum_assignment

    _, place_N = linear_sum_assignment(np.repeat(cost_NK, N // K, axis=1))
    return place_N // (N // K)


def scatter(points_ND: np.ndarray, labels_N: np.ndarray) -> float:
    """Sum of the squared distances of all points to the mean of their cluster.

    >>> scatter(np.array([[0.0], [9.0], [1.0], [8.0]]), np.array([0, 1, 0, 1]))
    1.0
    """
    return float(((points_ND - _means(points_ND, labels_N)[labels_N]) ** 2).sum())


def lines(directions_ND: np.ndarray) -> np.ndarray:
    """Points `(N, at most N)` for the lines through the origin along unit vectors: x and -x become the same point.

    Squared distances are those of the projections onto the lines, `||x x^T - y y^T||^2 = 2 - 2 (x . y)^2`, so k-means
    of these points does not depend on the signs of the directions. The coordinates are read off the inner products
    `(x . y)^2` by their eigenvectors.

    >>> x, minus_x, y = lines(np.array([[0.6, 0.8], [-0.6, -0.8], [1.0, 0.0]]))
    >>> ((x - minus_x) ** 2).sum().round(9).item(), ((x - y) ** 2).sum().round(9).item()
    (0.0, 1.28)
    """
    inner_NN = (directions_ND @ directions_ND.T) ** 2
    values_N, vectors_NN = np.linalg.eigh(inner_NN)
    there = values_N > len(values_N) * np.finfo(inner_NN.dtype).eps * values_N[-1]
    return vectors_NN[:, there] * np.sqrt(values_N[there])


def _starts(points_ND: np.ndarray, clusters: int, seed: int, restarts: int) -> list[np.ndarray]:
    """Centres of as many runs of KMeans, those that `n_init=restarts` would choose from."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    generator = np.random.RandomState(seed)
    with warnings.catch_warnings(), threadpool_limits(1):  # sums over threads come in any order
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        runs = [KMeans(clusters, n_init=1, random_state=generator).fit(points_ND) for _ in range(restarts)]
    return [run.cluster_centers_ for run in runs]


def _settle(points_ND: np.ndarray, centres_KD: np.ndarray) -> np.ndarray:
    """Assignment and means in turn from `centres_KD`, until the sum of squares no longer falls."""
    labels_N = balanced_assignment(_squared_distances(points_ND, centres_KD))
    lowest = scatter(points_ND, labels_N)
    while True:
        next_N = balanced_assignment(_squared_distances(points_ND, _means(points_ND, labels_N)))
        reached = scatter(points_ND, next_N)
        if not reached < lowest:
            return labels_N
        labels_N, lowest = next_N, reached


def _means(points_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    return np.stack([points_ND[labels_N == k].mean(axis=0) for k in range(labels_N.max() + 1)])


def _squared_distances(points_ND: np.ndarray, centres_KD: np.ndarray) -> np.ndarray:
    """Up to the squared norm of each point, which is the same for every centre."""
    return (centres_KD**2).sum(axis=1) - 2 * points_ND @ centres_KD.T
