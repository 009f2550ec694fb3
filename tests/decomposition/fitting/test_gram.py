"""The SVD by Gram matrices against LAPACK's, on matrices of every shape, scale and spectrum."""

import numpy as np
import pytest
import torch

from lowrank_exp.decomposition.fitting.gram import gram_singular_values, gram_svd
from support.cells import cells

EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
SHAPES = [(1, 1, 1), (1, 1, 7), (1, 7, 1), (1, 5, 5), (3, 12, 5), (3, 5, 12), (2, 90, 40), (40, 9, 1), (30, 3, 3)]


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_spectrum(M, N, values, noise=0.0, seed=0):
    """A matrix `(1, M, N)` with given singular values, and noise."""
    R = min(M, N)
    U, V = (np.linalg.qr(gaussian(n, R, seed=seed + n))[0] for n in (M, N))
    return (U * values @ V.T + noise * gaussian(M, N, seed=seed + 2) / max(M, N) ** 0.5)[None]


def decaying(M, N, decades, noise):
    return with_spectrum(M, N, 10.0 ** -np.linspace(0, decades, min(M, N)), noise)


SPECTRA = {
    "flat, tall": gaussian(1, 300, 60),
    "flat, square": gaussian(1, 150, 150),
    "flat, wide": gaussian(1, 60, 300),
    "two decades": decaying(200, 60, 2, 1e-2),
    "four decades": decaying(200, 60, 4, 1e-4),
    "four decades, square": decaying(140, 140, 4, 1e-4),
    "four decades, wide": decaying(60, 200, 4, 1e-4),
    "a step": with_spectrum(200, 60, np.repeat([1.0, 1e-3], 30)),
    "a step, noise": with_spectrum(200, 60, np.repeat([1.0, 0.0], 30), 1e-3),
    "one value stands out": with_spectrum(200, 60, np.r_[1.0, np.full(59, 1e-3)], 1e-4),
    "flat but for a few": with_spectrum(60, 200, np.r_[np.ones(55), np.full(5, 1e-3)]),
    "one value is small": with_spectrum(60, 200, np.r_[np.ones(59), 1e-4]),
    "groups of unlike spectra": np.concatenate(
        [gaussian(1, 90, 40), decaying(90, 40, 4, 1e-4), decaying(90, 40, 1, 0)]
    ),
}
every_spectrum = cells("matrices", SPECTRA.values(), ids=SPECTRA.keys())


def product(U, S, V):
    return (U.double() * S.double()[:, None] @ V.double()).numpy()


def errors(matrices, U, S, V):
    """Norm of what is left out at ranks 1, 2 ... R - 1, of each matrix, `(G, R - 1)`."""
    cut = [matrices - product(U[:, :, :r], S[:, :r], V[:, :r]) for r in range(1, S.shape[1])]
    return np.linalg.norm(cut, axis=(2, 3)).T


def tails(values):
    """Root of the sum of squares from the second, third ... value on."""
    return np.sqrt(np.cumsum(values[:, ::-1] ** 2, axis=1)[:, ::-1])[:, 1:]


@cells("dtype", EXACT)
@cells("scale", [1.0, 1e-20, 1e20, 1e-37, 1e37])
@cells("shape", SHAPES, ids=str)
def test_the_product_is_the_matrix_and_the_values_are_those_of_numpy(shape, scale, dtype):
    W = torch.from_numpy(gaussian(*shape) * scale).to(dtype)
    U, S, V = gram_svd(W)
    G, M, N = shape
    R = min(M, N)
    assert [x.dtype for x in (U, S, V)] == [dtype] * 3
    assert [tuple(x.shape) for x in (U, S, V)] == [(G, M, R), (G, R), (G, R, N)]
    norm = np.linalg.norm(W.double().numpy(), axis=(1, 2))
    assert (np.linalg.norm(product(U, S, V) - W.double().numpy(), axis=(1, 2)) <= EXACT[dtype] * norm).all()
    values = np.linalg.svd(W.double().numpy(), compute_uv=False)
    for found in (S, gram_singular_values(W)):
        np.testing.assert_allclose(found.double().numpy() / norm[:, None], values / norm[:, None], rtol=0, atol=3e-6)
        assert (found.diff(dim=1) <= 0).all()
    for basis in (U.mT @ U, V @ V.mT):
        assert np.abs(basis.double().numpy() - np.eye(R)).max() < 100 * EXACT[dtype]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_matrices(rank, dtype):
    W = torch.from_numpy(gaussian(4, 20, rank) @ gaussian(4, rank, 12, seed=1)).to(dtype)
    W[1] = 0
    U, S, V = gram_svd(W)
    assert all(x.isfinite().all() for x in (U, S, V))
    assert (S[1] == 0).all()
    norm = np.linalg.norm(W.double().numpy())
    assert np.linalg.norm(product(U, S, V) - W.double().numpy()) <= EXACT[dtype] * norm
    assert np.linalg.norm(product(U[:, :, :rank], S[:, :rank], V[:, :rank]) - W.double().numpy()) <= EXACT[dtype] * norm
    values = np.linalg.svd(W.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(S.double().numpy(), values, rtol=0, atol=1e-6 * max(norm, 1e-30))
    np.testing.assert_allclose(gram_singular_values(W).double().numpy(), values, rtol=0, atol=1e-6 * max(norm, 1e-30))


@every_spectrum
def test_the_error_at_every_rank_is_that_of_lapack_and_the_tail_of_the_values(matrices):
    W = torch.from_numpy(matrices).float()
    exact = W.double().numpy()
    ours = errors(exact, *gram_svd(W))
    lapack = errors(exact, *torch.linalg.svd(W, full_matrices=False))
    best = tails(np.linalg.svd(exact, compute_uv=False))
    assert (ours <= 1.001 * lapack).all()
    np.testing.assert_allclose(ours, best, rtol=1e-3)
    np.testing.assert_allclose(tails(gram_svd(W)[1].double().numpy()), best, rtol=1e-3)


@every_spectrum
def test_float64_is_as_good_as_float64(matrices):
    U, S, V = gram_svd(torch.from_numpy(matrices))
    values = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(S.numpy(), values, rtol=1e-9)
    np.testing.assert_allclose(errors(matrices, U, S, V), tails(values), rtol=1e-9)
    np.testing.assert_allclose(gram_singular_values(torch.from_numpy(matrices)).numpy(), values, rtol=1e-9)


@every_spectrum
def test_singular_values_alone(matrices):
    W = torch.from_numpy(matrices).float()
    values = np.linalg.svd(W.double().numpy(), compute_uv=False)
    found = gram_singular_values(W)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), values, rtol=2e-5)
    np.testing.assert_allclose(tails(found.double().numpy()), tails(values), rtol=2e-5)


@pytest.mark.parametrize("shape", [(1, 100, 100), (2, 30, 70)])
def test_same_matrices_same_numbers_whatever_the_layout_and_the_global_generator(shape):
    W = torch.from_numpy(gaussian(*shape)).float()
    state = torch.random.get_rng_state()
    first = [*gram_svd(W), gram_singular_values(W)]
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(123)
    again = [*gram_svd(W.clone()), gram_singular_values(W.clone())]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    before = W.clone()
    turned = gram_svd(W.mT.contiguous().mT)
    assert torch.equal(W, before)
    np.testing.assert_allclose(turned[1].numpy(), first[1].numpy(), rtol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 2.0, 6.0])
def test_the_first_components_alone_are_those_of_all(decay):
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(2, 150, 200, generator=generator, dtype=torch.float64)
    U, _, V = torch.linalg.svd(W, full_matrices=False)
    spectrum = 10 ** (-decay * torch.linspace(0, 1, 150, dtype=torch.float64))
    W = ((U * spectrum) @ V).float()
    for rank in (1, 40, 149, 150):
        for matrices in (W, W.mT):
            first, S, second = gram_svd(matrices, rank)
            assert S.shape == (2, rank)
            error = (first * S[:, None] @ second - matrices).norm()
            tail = spectrum[rank:].norm() * 2**0.5
            assert error <= 1.001 * tail + 1e-6 * matrices.norm()
            torch.testing.assert_close(S, spectrum[:rank].float().expand(2, rank), rtol=1e-4, atol=1e-6)
