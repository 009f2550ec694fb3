"""Clusters of equal size, next to all partitions there are and to scikit-learn's k-means."""

import itertools
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lowrank_exp.decomposition.fitting.equal_clusters import balanced_assignment, equal_clusters, lines, scatter
from support.partitions import equal_partitions


def spread(points, labels):
    """Squared distances to the means, by pairs: within a cluster of m points, the sum over pairs divided by m."""
    total = 0.0
    for k in set(labels.tolist()):
        inside = points[labels == k]
        total += sum(((x - y) ** 2).sum() for x, y in itertools.combinations(inside, 2)) / len(inside)
    return total


def test_there_are_as_many_partitions_as_counting_says():
    assert [len(equal_partitions(*case)) for case in [(4, 2), (6, 2), (6, 3), (8, 2), (8, 4)]] == [3, 10, 15, 35, 105]


@pytest.mark.parametrize(("N", "K", "missed"), [(4, 2, 0), (6, 3, 3), (8, 2, 0), (8, 4, 3)])
def test_clusters_are_mostly_the_best_of_all_partitions(N, K, missed):
    ratios = []
    for seed in range(20):
        points = np.random.default_rng(seed).standard_normal((N, 2))
        labels = equal_clusters(points, K)
        np.testing.assert_allclose(scatter(points, labels), spread(points, labels), rtol=1e-12)
        best = min(equal_partitions(N, K), key=lambda labels: spread(points, labels))
        ratios.append(spread(points, labels) / spread(points, best))
        assert labels.tolist() == best.tolist() or ratios[-1] > 1
    assert 1 - 1e-12 <= min(ratios) <= max(ratios) < 1.5
    assert sum(ratio > 1 + 1e-12 for ratio in ratios) <= missed


@pytest.mark.parametrize(("N", "K"), [(4, 2), (6, 2), (6, 3), (8, 4)])
def test_assignment_is_the_cheapest_of_all(N, K):
    for seed in range(8):
        cost = np.random.default_rng(seed).standard_normal((N, K))
        labels = balanced_assignment(cost)
        every = {order for order in itertools.permutations(np.repeat(np.arange(K), N // K).tolist())}
        lowest = min(sum(cost[n, k] for n, k in enumerate(order)) for order in every)
        assert np.bincount(labels, minlength=K).tolist() == [N // K] * K
        np.testing.assert_allclose(cost[np.arange(N), labels].sum(), lowest, rtol=1e-12)


def test_balanced_blobs_are_those_of_kmeans():
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((5, 4))
    points = rng.permutation(np.repeat(centres, 12, axis=0) + rng.standard_normal((60, 4)))
    peer = KMeans(5, n_init=10, random_state=0).fit(points)
    labels = equal_clusters(points, 5)
    assert np.bincount(peer.labels_).tolist() == [12] * 5
    assert len({*zip(labels.tolist(), peer.labels_.tolist(), strict=True)}) == 5  # the same up to the numbers
    np.testing.assert_allclose(scatter(points, labels), peer.inertia_, rtol=1e-10)


def test_unbalanced_blobs_are_cut_at_the_cheapest_points():
    # Three at 0, one at 4 and two at 10: the third cluster member of the right one is that at 4.
    assert equal_clusters(np.array([[10.0], [0.0], [0.1], [4.0], [10.0], [-0.1]]), 2).tolist() == [0, 1, 1, 0, 0, 1]


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_sizes_are_equal_and_nothing_is_worse_than_the_start(K, size, D, seed):
    points = np.random.default_rng(seed).standard_normal((K * size, D))
    labels = equal_clusters(points, K, seed=seed, restarts=1)
    assert np.bincount(labels).tolist() == [size] * K
    assert list(dict.fromkeys(labels.tolist())) == list(range(K))  # numbered by their first points

    centred = points - points.mean(axis=0)
    peer = KMeans(K, n_init=1, random_state=np.random.RandomState(seed)).fit(centred)
    start = balanced_assignment(((centred[:, None] - peer.cluster_centers_) ** 2).sum(axis=2))
    found, more = scatter(points, labels), scatter(points, equal_clusters(points, K, seed=seed, restarts=3))
    assert 0 < more <= found * (1 + 1e-12)
    assert found <= scatter(points, start) * (1 + 1e-12)


def test_one_cluster_and_one_point_each():
    points = np.random.default_rng(0).standard_normal((6, 2))
    assert equal_clusters(points, 1).tolist() == [0] * 6
    assert equal_clusters(points, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_fewer_distinct_points_than_clusters_are_parted_without_a_warning():
    points = np.array([[0.0], [5.0]] * 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = equal_clusters(points, 4)
    assert np.bincount(labels).tolist() == [3] * 4
    assert scatter(points, labels) == 0.0


def test_same_seed_same_clusters_and_no_global_generator():
    points = np.random.default_rng(0).standard_normal((600, 3))
    np.random.seed(5)
    random.seed(5)
    first = equal_clusters(points, 6, restarts=2)
    after = np.random.rand(), random.random()
    np.random.seed(5)
    random.seed(5)
    assert after == (np.random.rand(), random.random())
    assert equal_clusters(points, 6, restarts=2).tolist() == first.tolist()


def test_lines_do_not_know_signs():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((10, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    signs = rng.choice([-1.0, 1.0], size=(10, 1))
    points = lines(directions)
    np.testing.assert_array_equal(lines(signs * directions), points)

    projectors = np.einsum("ni,nj->nij", directions, directions).reshape(10, -1)
    wanted = ((projectors[:, None] - projectors) ** 2).sum(axis=2)
    np.testing.assert_allclose(((points[:, None] - points) ** 2).sum(axis=2), wanted, atol=1e-12)
    assert equal_clusters(points, 5).tolist() == equal_clusters(projectors, 5).tolist()


@pytest.mark.parametrize(
    ("clusters", "restarts", "message"),
    [
        (4, 1, "10 points cannot be put into 4 equal clusters; take a divisor of 10"),
        (0, 1, "10 points cannot be put into 0 equal clusters"),
        (5, 0, "restarts must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(clusters, restarts, message):
    with pytest.raises(ValueError, match=message):
        equal_clusters(np.zeros((10, 2)), clusters, restarts=restarts)
