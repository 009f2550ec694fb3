"""Linear response reconstruction and the regression below it, against NumPy."""

import numpy as np
import pytest
import torch

from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.reduced_rank import affine_fit, floor_of
from lowrank_exp.reconstruct.response import linear_response
from support.layer_cases import images


def responses(seed=0, G=2, O=6, P=60):
    return images((G, P, O), seed) @ images((G, O, O), seed + 1) + 3


WEIGHT = images((2, 6, 10), seed=9)


def moments_of(*rows):
    moments = Moments()
    moments.add(*rows)
    return moments


def error(y, hat, M, b):
    return ((y - hat @ M.mT - b[:, None]) ** 2).sum(dim=(1, 2)).numpy()


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_symmetric_is_numpys_principal_components(rank):
    y = responses()
    M, b = linear_response(moments_of(y), WEIGHT, rank)
    for g in range(2):
        centred = y[g].numpy() - y[g].numpy().mean(0)
        _, s, V = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(M[g].numpy(), V[:rank].T @ V[:rank], atol=1e-8)
        np.testing.assert_allclose(b[g].numpy(), y[g].numpy().mean(0) - M[g].numpy() @ y[g].numpy().mean(0), atol=1e-9)
        np.testing.assert_allclose(error(y, y, M, b)[g], (s[rank:] ** 2).sum(), rtol=1e-8)


def test_full_rank_is_the_identity():
    M, b = linear_response(moments_of(responses()), WEIGHT, 6)
    torch.testing.assert_close(M, torch.eye(6, dtype=torch.float64).expand(2, 6, 6), rtol=0, atol=1e-10)
    assert b.abs().max() < 1e-9


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_asymmetric_is_the_best_affine_map_of_its_rank(rank):
    """NumPy: least squares with a constant, then the tail of what is fitted."""
    y = responses()
    hat = y + images(y.shape, seed=4)
    M, b = linear_response(moments_of(y, hat), WEIGHT, rank)
    for g in range(2):
        centred, inputs = (rows[g].numpy() - rows[g].numpy().mean(0) for rows in (y, hat))
        fitted = inputs @ np.linalg.lstsq(inputs, centred, rcond=None)[0]
        wanted = ((centred - fitted) ** 2).sum() + (np.linalg.svd(fitted, compute_uv=False)[rank:] ** 2).sum()
        np.testing.assert_allclose(error(y, hat, M, b)[g], wanted, rtol=1e-8)
        assert np.linalg.matrix_rank(M[g].numpy(), tol=1e-8) == rank


def test_no_other_map_of_the_rank_is_better():
    y = responses(G=1)
    hat = y + images(y.shape, seed=4)
    M, b = linear_response(moments_of(y, hat), WEIGHT[:1], 2)
    least = error(y, hat, M, b)[0]
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1):
        for _ in range(50):
            U, s, V = np.linalg.svd(M[0].numpy() + size * rng.standard_normal((6, 6)))
            other = torch.from_numpy((U[:, :2] * s[:2]) @ V[:2])[None]
            best_b = y.mean(dim=1) - (other @ hat.mean(dim=1)[:, :, None])[:, :, 0]
            assert error(y, hat, other, best_b)[0] >= least * (1 - 1e-12)


def test_constant_responses_leave_the_rank_to_the_weight():
    y = torch.full((1, 30, 6), 7.3, dtype=torch.float64)
    M, b = linear_response(moments_of(y), WEIGHT[:1], 2)
    torch.testing.assert_close(y @ M.mT + b[:, None], y, rtol=1e-12, atol=1e-12)
    U = np.linalg.svd(WEIGHT[0].numpy())[0][:, :2]
    np.testing.assert_allclose(M[0].numpy(), U @ U.T, atol=1e-10)


def test_constant_responses_of_both_networks():
    y = torch.full((1, 30, 6), 7.3, dtype=torch.float64)
    hat = torch.full((1, 30, 6), 0.1, dtype=torch.float64)
    M, b = linear_response(moments_of(y, hat), WEIGHT[:1], 2)
    torch.testing.assert_close(hat @ M.mT + b[:, None], y, rtol=1e-12, atol=1e-12)
    assert M.abs().max() <= 1 + 1e-9


def test_fewer_rows_than_dimensions():
    y = responses(P=3)  # two directions around the mean
    M, b = linear_response(moments_of(y), WEIGHT, 4)
    assert error(y, y, M, b).max() <= 1e-16 * (y**2).sum()
    for g in range(2):
        assert np.linalg.matrix_rank(M[g].numpy(), tol=1e-8) == 4
        np.testing.assert_allclose((M[g] @ M[g]).numpy(), M[g].numpy(), atol=1e-9)


def test_regression_of_any_targets():
    """The step of the nonlinear reconstruction: targets z that are not responses."""
    y, z = responses(), images((2, 60, 6), seed=11)
    mean, hat_mean = z.mean(dim=1), y.mean(dim=1)
    centred, inputs = z - mean[:, None], y - hat_mean[:, None]
    cross, covariance = centred.mT @ inputs / 60, inputs.mT @ inputs / 60
    M, b = affine_fit(mean, hat_mean, cross, covariance, WEIGHT, 2, floor_of(y.mT @ y / 60))
    for g in range(2):
        fitted = inputs[g].numpy() @ np.linalg.lstsq(inputs[g].numpy(), centred[g].numpy(), rcond=None)[0]
        tail = np.linalg.svd(fitted, compute_uv=False)[2:]
        wanted = ((centred[g].numpy() - fitted) ** 2).sum() + (tail**2).sum()
        np.testing.assert_allclose(error(z, y, M, b)[g], wanted, rtol=1e-8)
