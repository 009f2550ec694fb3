"""Least squares in the metric of the data: the closed form against NumPy, one factor at a time against it."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import CP, ChannelSVD, LinearSVD, SpatialSVD
from lowrank_exp.reconstruct.alternating import alternating, chain_refusal, dense_GOD, error
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.patches import patches_GPD
from lowrank_exp.reconstruct.weights import weight_GOK
from lowrank_exp.reconstruct.whitened import target, whitened, whitened_by_responses
from support.layer_cases import filled, images


def problem(seed=0, G=2, O=5, D=7, P=40):
    """A weight, and the moments of correlated inputs."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((G, O, D))
    X = rng.standard_normal((G, P, D)) @ rng.standard_normal((G, D, D)) + 1
    return torch.from_numpy(W), torch.from_numpy(X)


def second(X):
    return X.mT @ X / X.shape[1]


def squared_error(W, what, X):
    """E||W x - What x||^2 of every group, from the rows themselves."""
    return ((X @ (W - what).mT) ** 2).sum(dim=(1, 2)) / X.shape[1]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_error_is_the_tail_of_numpys_singular_values_of_the_responses(rank):
    W, X = problem()
    what = whitened(W, second(X), rank)
    for g in range(2):
        s = np.linalg.svd((X[g] @ W[g].T).numpy(), compute_uv=False)
        np.testing.assert_allclose(squared_error(W, what, X)[g], (s[rank:] ** 2).sum() / X.shape[1], rtol=1e-8)
        assert np.linalg.matrix_rank(what[g].numpy(), tol=1e-9) == rank


def test_it_is_the_whitened_svd_mapped_back():
    """The textbook's way, by a square root that has an inverse."""
    W, X = problem()
    for g in range(2):
        L = np.linalg.cholesky(second(X)[g].numpy())
        U, s, V = np.linalg.svd(W[g].numpy() @ L)
        wanted = (U[:, :2] * s[:2]) @ V[:2] @ np.linalg.inv(L)
        np.testing.assert_allclose(whitened(W, second(X), 2)[g].numpy(), wanted, rtol=1e-7, atol=1e-9)


def test_no_alternation_from_random_starts_finds_a_better_one():
    """NumPy's least squares for P and Q in turn, of What = P Q."""
    W, X = problem(G=1)
    least = float(squared_error(W, whitened(W, second(X), 2), X))
    y, x = (X[0] @ W[0].T).numpy(), X[0].numpy()
    found = []
    for seed in range(3):
        P = np.random.default_rng(seed).standard_normal((5, 2))
        for _ in range(300):
            Q = np.linalg.lstsq(x, np.linalg.lstsq(P, y.T, rcond=None)[0].T, rcond=None)[0].T
            P = np.linalg.lstsq(x @ Q.T, y, rcond=None)[0].T
        found.append(((y - x @ (P @ Q).T) ** 2).sum() / len(x))
    np.testing.assert_allclose(found, least, rtol=1e-9)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 6, 3), nn.Linear(7, 5)])
def test_with_the_identity_it_is_the_svd_of_the_weight(layer):
    layer = filled(layer)
    kind = LinearSVD() if isinstance(layer, nn.Linear) else ChannelSVD()
    W = weight_GOK(layer, torch.device("cpu"))
    eye = torch.eye(W.shape[2], dtype=torch.float64).expand(len(W), -1, -1)
    chain = kind.factorize(layer, 2)
    wanted = dense_GOD(list(chain), [factor.weight for factor in chain], len(W))
    torch.testing.assert_close(whitened(W, eye, 2), wanted.detach(), rtol=1e-9, atol=1e-9)


def test_moments_of_the_responses_do_as_well():
    W, X = problem()
    moment = W @ second(X) @ W.mT
    torch.testing.assert_close(whitened_by_responses(W, moment, 3), whitened(W, second(X), 3), rtol=1e-9, atol=1e-9)


def test_what_the_data_do_not_say_goes_to_the_weight():
    W, X = problem(P=1)  # one row: one direction is told, two are left
    what = whitened(W, second(X), 3)
    assert squared_error(W, what, X).max() <= 1e-16 * squared_error(W, 0 * W, X).min()
    for g in range(2):
        y = (W[g] @ X[g, 0]).numpy()
        rest = W[g].numpy() - np.outer(y, y @ W[g].numpy()) / (y @ y)
        tail = np.linalg.svd(rest, compute_uv=False)[2:]
        np.testing.assert_allclose(np.linalg.norm(what[g].numpy() - W[g].numpy()), np.linalg.norm(tail), rtol=1e-8)


def test_without_data_it_is_the_svd_of_the_weight():
    W, _ = problem()
    zeros, eye = torch.zeros(2, 7, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64).expand(2, 7, 7)
    torch.testing.assert_close(whitened(W, zeros, 2), whitened(W, eye, 2), rtol=1e-9, atol=1e-9)


def test_weight_of_zeros_stays():
    _, X = problem()
    assert not whitened(torch.zeros(2, 5, 7, dtype=torch.float64), second(X), 2).any()


def change(W, X, hat):
    """E[W (x - x^) x^^T]."""
    return ((X - hat) @ W.mT).mT @ hat / X.shape[1]


def ridge_by_numpy(hat_PD, y_PO, W_OD):
    """Least squares of the rows, and of one row more for every entry that draws the map towards W."""
    P, D = hat_PD.shape
    drawn = np.sqrt((hat_PD**2).sum() / P / D) * np.eye(D)  # of length sqrt(P lambda), lambda = tr(M^) / (D P)
    rows, answers = np.concatenate([hat_PD, drawn]), np.concatenate([y_PO, drawn @ W_OD.T])
    return np.linalg.lstsq(rows, answers, rcond=None)[0].T


def test_asymmetric_target_is_numpys_least_squares_drawn_to_the_weight():
    W, X = problem()
    hat = X + 0.5 * images(X.shape, seed=3)
    P = X.shape[1]
    got = target(W, change(W, X, hat), second(hat), P)
    plain = target(W, change(W, X, hat), second(hat), 10**12)
    for g in range(2):
        y, inputs = (X[g] @ W[g].T).numpy(), hat[g].numpy()
        np.testing.assert_allclose(got[g].numpy(), ridge_by_numpy(inputs, y, W[g].numpy()), rtol=1e-8, atol=1e-9)
        by_numpy = np.linalg.lstsq(inputs, y, rcond=None)[0].T
        np.testing.assert_allclose(plain[g].numpy(), by_numpy, rtol=1e-8, atol=1e-9)
        assert 0 < np.abs(got[g].numpy() - by_numpy).max() < 0.2


def test_few_rows_do_not_make_the_target_run_away():
    """Two rows that are nearly the same: least squares would answer their difference with a map of any size."""
    W = torch.eye(3, dtype=torch.float64)[None]
    hat = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-4, 0.0]]], dtype=torch.float64)
    X = hat + torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]], dtype=torch.float64)
    least = target(W, change(W, X, hat), second(hat), 10**12)
    assert float(least.abs().max()) > 1e3
    assert float(target(W, change(W, X, hat), second(hat), 2).abs().max()) < 2


def test_asymmetric_fit_is_the_best_of_its_rank():
    """Reduced-rank regression: what is left over is the tail of the fitted responses."""
    W, X = problem()
    hat = X + 0.5 * images(X.shape, seed=3)
    what = whitened(target(W, change(W, X, hat), second(hat), X.shape[1]), second(hat), 2)
    for g in range(2):
        y, inputs = (X[g] @ W[g].T).numpy(), hat[g].numpy()
        fitted = inputs @ ridge_by_numpy(inputs, y, W[g].numpy()).T
        wanted = (np.linalg.svd(fitted, compute_uv=False)[2:] ** 2).sum()
        np.testing.assert_allclose(((fitted - inputs @ what[g].numpy().T) ** 2).sum(), wanted, rtol=1e-8)


def test_asymmetric_target_keeps_the_weight_where_nothing_was_seen():
    W, X = problem()
    hat = (X + 0.5 * images(X.shape, seed=3)).clone()
    hat[:, :, 2] = 0  # a dead channel
    got = target(W, change(W, X, hat), second(hat), X.shape[1])
    torch.testing.assert_close(got[:, :, 2], W[:, :, 2], rtol=0, atol=1e-9)
    for g in range(2):
        wanted = ridge_by_numpy(hat[g].numpy(), (X[g] @ W[g].T).numpy(), W[g].numpy())
        np.testing.assert_allclose(got[g].numpy(), wanted, rtol=1e-8, atol=1e-9)


def seen(layer, shape, seed=5):
    """Second moments of the patches of smooth images."""
    x = torch.nn.functional.avg_pool2d(images((8, layer.in_channels, 2 * shape, 2 * shape), seed), 5, 2).relu()
    moments = Moments()
    for rows in patches_GPD(layer, x):
        moments.add(rows)
    return moments.second_GDD


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, (3, 2), groups=2, stride=2)])
def test_one_factor_at_a_time_comes_to_the_closed_form(layer):
    layer = filled(layer)
    W, M = weight_GOK(layer, torch.device("cpu")), seen(layer, 9)
    chain = ChannelSVD().factorize(layer, 2)
    weights = [factor.weight.detach() for factor in chain]
    least = error(W, whitened(W, M, 2), M)
    before = error(W, dense_GOD(list(chain), weights, layer.groups), M)
    found = alternating(list(chain), weights, W, M, sweeps=300, tolerance=1e-9, steps=200)
    after = error(W, dense_GOD(list(chain), found, layer.groups), M)
    assert before > 1.05 * least
    assert least * (1 - 1e-9) <= after <= least * (1 + 1e-4)


def test_each_factor_is_left_at_the_least_squares_solution_of_numpy():
    """At the end, with the others fixed, no factor can be bettered."""
    layer = filled(nn.Conv2d(3, 4, 3))
    W, M = weight_GOK(layer, torch.device("cpu")), seen(layer, 9)
    root = np.linalg.cholesky(M[0].numpy() + 1e-12 * np.eye(27))
    chain = SpatialSVD().factorize(layer, 3)
    parts = list(chain)
    found = alternating(parts, [f.weight.detach() for f in chain], W, M, sweeps=500, tolerance=1e-10, steps=200)
    now = error(W, dense_GOD(parts, found, 1), M)
    for turn in range(2):
        columns = []
        for entry in torch.eye(found[turn].numel(), dtype=torch.float64):
            trial = [*found]
            trial[turn] = entry.reshape(found[turn].shape)
            columns.append((dense_GOD(parts, trial, 1)[0].numpy() @ root).ravel())
        wanted = np.linalg.lstsq(np.array(columns).T, (W[0].numpy() @ root).ravel(), rcond=None)[1]
        assert float(wanted[0]) * (1 - 1e-8) <= now <= float(wanted[0]) * (1 + 1e-4)


def test_chains_that_cannot_be_fitted_are_told():
    assert chain_refusal(nn.Conv2d(1, 1, 1)) == "it leaves a single Conv2d, not a chain of factors"
    assert "single layer with a weight" in chain_refusal(nn.Sequential(nn.Conv2d(1, 1, 1)))
    assert "has ReLU in it" in chain_refusal(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    assert chain_refusal(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))) is None


def test_extrapolated_sweeps_go_further_and_never_back():
    """Against sweeps alone: coordinate descent on the same factors, each solved in turn from where it stands."""
    layer = filled(nn.Conv2d(6, 6, 3))
    W, M = weight_GOK(layer, torch.device("cpu")), seen(layer, 9)
    chain = CP("merged", max_iterations=20).factorize(layer, 12)
    parts, start = list(chain), [factor.weight.detach() for factor in chain]

    def left(weights):
        return error(W, dense_GOD(parts, weights, 1), M)

    errors = [left(start)]
    errors += [left(alternating(parts, start, W, M, sweeps=sweeps, tolerance=0)) for sweeps in range(1, 13)]
    assert (np.diff(errors) <= 0).all()
    alone = start
    for _ in range(12):
        alone = alternating(parts, alone, W, M, sweeps=1, tolerance=0)
    assert 0 < errors[-1] < 0.96 * left(alone)
    assert left(alone) < 0.9 * errors[0]
