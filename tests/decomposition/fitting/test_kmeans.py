"""k-means against scikit-learn's."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from lowrank_exp.decomposition.fitting import kmeans as module
from lowrank_exp.decomposition.fitting.kmeans import distinct, kmeans, lloyd, means, nearest


def vectors(N, D, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal((N, D)) * rng.uniform(0, 2, (N, 1))).astype(dtype))


def inertia(vectors_ND, centroids_KD):
    distances_NK = ((vectors_ND.double().numpy()[:, None] - centroids_KD.double().numpy()) ** 2).sum(axis=2)
    return distances_NK.min(axis=1).sum()


@pytest.mark.parametrize(("N", "D", "K"), [(2000, 9, 16), (3000, 4, 100), (500, 18, 3), (700, 1, 8)])
def test_same_start_gives_the_inertia_of_scikit_learn(N, D, K):
    vectors_ND = vectors(N, D)
    start_KD = vectors_ND[:K]
    theirs = KMeans(K, init=start_KD.numpy(), n_init=1, max_iter=300, tol=0).fit(vectors_ND.numpy())
    centroids_KD = lloyd(vectors_ND, start_KD, 300, settled=0)
    assert inertia(vectors_ND, centroids_KD) == pytest.approx(theirs.inertia_, rel=1e-3)
    np.testing.assert_array_equal(start_KD.numpy(), vectors_ND[:K].numpy())


def test_every_iteration_is_that_of_scikit_learn():
    vectors_ND = vectors(1500, 4, dtype=np.float64)
    for iterations in (1, 2, 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            start = {"init": vectors_ND[:20].numpy(), "n_init": 1, "max_iter": iterations, "tol": 0}
            theirs = KMeans(20, **start).fit(vectors_ND.numpy())
        ours_KD = lloyd(vectors_ND, vectors_ND[:20], iterations, settled=0)
        np.testing.assert_allclose(ours_KD.numpy(), theirs.cluster_centers_, rtol=1e-9, atol=1e-12)


def test_centroids_are_as_good_as_those_of_scikit_learn():
    vectors_ND = vectors(4000, 9)
    theirs = KMeans(32, n_init=1, random_state=0).fit(vectors_ND.numpy()).inertia_
    assert 0.95 * theirs < inertia(vectors_ND, kmeans(vectors_ND, 32)) < 1.05 * theirs


@pytest.mark.parametrize("scores", [2**19, 1])
def test_nearest_is_that_of_all_distances(scores, monkeypatch):
    monkeypatch.setattr(module, "SCORES", scores)  # 1: parts of 64 vectors
    vectors_ND, centroids_KD = vectors(1000, 9, dtype=np.float64), vectors(37, 9, 1, np.float64)
    distances_NK = ((vectors_ND.numpy()[:, None] - centroids_KD.numpy()) ** 2).sum(axis=2)
    assert nearest(vectors_ND, centroids_KD).tolist() == distances_NK.argmin(axis=1).tolist()


def test_means_are_those_of_numpy():
    vectors_ND = vectors(300, 5)
    assigned_N = torch.from_numpy(np.random.default_rng(1).choice([0, 1, 3], 300))  # none to 2 and 4
    means_KD, counts_K = means(vectors_ND, assigned_N, 5)
    assert counts_K.tolist() == np.bincount(assigned_N.numpy(), minlength=5).tolist()
    for k in (0, 1, 3):
        wanted_D = vectors_ND.double().numpy()[assigned_N.numpy() == k].mean(axis=0)
        np.testing.assert_allclose(means_KD[k].numpy(), wanted_D, rtol=1e-6)
    assert means_KD[[2, 4]].abs().sum() == 0


def test_empty_cluster_takes_half_of_the_worst():
    # Two pairs far apart in one cluster, a heap of equal vectors in another, and a centroid that is nearest to none.
    vectors_ND = torch.tensor([[0.0]] * 50 + [[9.0], [9.5], [11.0], [11.5]])
    start_KD = torch.tensor([[0.0], [10.0], [100.0]])
    centroids_KD = lloyd(vectors_ND, start_KD, 20, settled=0)
    assert sorted(centroids_KD.flatten().tolist()) == [0.0, 9.25, 11.25]


def test_clusters_of_equal_vectors_cannot_be_split():
    vectors_ND = torch.tensor([[1.0], [1.0], [2.0]])
    centroids_KD = lloyd(vectors_ND, torch.tensor([[1.0], [2.0], [5.0], [6.0]]), 3, settled=0)
    assert centroids_KD.flatten().tolist() == [1.0, 2.0, 0.0, 0.0]


def test_iteration_ends_when_the_clusters_have_settled(monkeypatch):
    vectors_ND, calls = vectors(500, 4), []
    monkeypatch.setattr(module, "nearest", lambda *arguments: calls.append(1) or nearest(*arguments))
    lloyd(vectors_ND, vectors_ND[:8], 200, settled=0)
    exact = len(calls)
    lloyd(vectors_ND, vectors_ND[:8], 200, settled=0.05)
    assert 1 < len(calls) - exact < exact < 200
    calls.clear()
    lloyd(vectors_ND, vectors_ND[:8], 3, settled=0)
    assert len(calls) == 3


def test_many_vectors_are_drawn_from_and_all_take_part_at_last():
    normal_N1 = torch.from_numpy(np.random.default_rng(0).standard_normal((2**18 + 1000, 1)).astype(np.float32))
    best = 1 - 2 / np.pi  # mean squared distance of a normal variable to the means of its halves
    assert inertia(normal_N1, kmeans(normal_N1, 2)) / len(normal_N1) == pytest.approx(best, rel=0.01)

    far_N1 = torch.cat([normal_N1, torch.full((1, 1), 1e6)])
    assert kmeans(far_N1, 1).item() == pytest.approx(far_N1.double().numpy().mean(), rel=1e-6)


def test_seed_decides_and_the_global_generator_is_not_touched():
    vectors_ND = vectors(600, 4)
    state = torch.get_rng_state()
    first, again, other = (kmeans(vectors_ND, 16, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_distinct_vectors_are_those_of_numpy():
    vectors_ND = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (400, 2)).astype(np.float32))
    wanted_KD, wanted_N = np.unique(vectors_ND.numpy(), axis=0, return_inverse=True)
    distinct_KD, which_N = distinct(vectors_ND, most=9)
    np.testing.assert_array_equal(distinct_KD.numpy(), wanted_KD)
    np.testing.assert_array_equal(which_N.numpy(), wanted_N.ravel())
    assert distinct(vectors_ND, most=8) is None
    assert distinct(torch.cat([torch.zeros(100, 1), torch.arange(9.0)[:, None]]), most=8) is None  # seen late


def test_start_is_of_distinct_vectors():
    vectors_ND = torch.cat([torch.zeros(1000, 1), torch.tensor([[1.0], [2.0], [3.0]])])
    assert kmeans(vectors_ND, 4).flatten().sort().values.tolist() == [0.0, 1.0, 2.0, 3.0]
