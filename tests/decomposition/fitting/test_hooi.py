"""The best Tucker decomposition along two modes, beside NumPy's HOSVD and TensorLy.

Legend: G groups, O out channels, I in channels, K kernel entries, Q out rank, R in rank.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_exp.decomposition.fitting.hooi import along_spectra, hooi, hosvd, kept_shares, squared_singular_values
from support.cells import cells
from support.tensorly_peers import tucker2_error

SHAPES = [(1, 16, 12, 9), (1, 24, 3, 49), (1, 12, 24, 25), (1, 32, 32, 1)]
many_kernels = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def planted(shape, R, Q, noise, seed=0):
    """A kernel of multilinear rank (R, Q), and noise of a given norm beside it."""
    rng = np.random.default_rng(seed)
    G, O, I, K = shape
    factors = rng.standard_normal((G, O, Q)), rng.standard_normal((G, Q, R, K)), rng.standard_normal((G, I, R))
    W, E = np.einsum("goq,gqrk,gir->goik", *factors), rng.standard_normal(shape)
    return W / np.linalg.norm(W) + noise * E / np.linalg.norm(E)


def falling(shape, decay):
    """A kernel whose singular values fall by `decay` orders of magnitude in either mode."""
    rng = np.random.default_rng(0)
    G, O, I, K = shape
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] * 10 ** -np.linspace(0, decay, n) for n in (O, I))
    return np.einsum("oa,gabk,ib->goik", U, rng.standard_normal((G, O, I, K)), V)


def error(kernel, factors):
    """Relative to the norm of the kernel; in float64, whatever the factors."""
    U, C, V = (factor.double().numpy() for factor in factors)
    return np.linalg.norm(np.einsum("goq,gqrk,gir->goik", U, C, V) - kernel) / np.linalg.norm(kernel)


def unfoldings(kernel_OIK):
    """In, then out."""
    return np.moveaxis(kernel_OIK, 1, 0).reshape(kernel_OIK.shape[1], -1), kernel_OIK.reshape(len(kernel_OIK), -1)


def hosvd_error(kernel_OIK, R, Q):
    """Squared, by NumPy's SVD of either unfolding."""
    V, U = (
        np.linalg.svd(m, full_matrices=False)[0][:, :r] for m, r in zip(unfoldings(kernel_OIK), (R, Q), strict=True)
    )
    cut = np.einsum("oq,pq,pjk,jr,ir->oik", U, U, kernel_OIK, V, V, optimize=True)
    return ((kernel_OIK - cut) ** 2).sum()


@st.composite
def kernels_and_ranks(draw):
    shape = (1, draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 6)))
    _, O, I, K = shape
    R, Q = draw(st.integers(1, min(I, O * K))), draw(st.integers(1, min(O, I * K)))
    seed = draw(st.integers(0, 1000))
    return draw(st.sampled_from([gaussian(shape, seed), planted(shape, R, Q, 0.1, seed)])), R, Q


@cells("dtype", [torch.float32, torch.float64])
@cells("shape", SHAPES, ids=str)
@cells("noise", [None, 0.3, 0.03])
def test_error_is_that_of_tensorly(shape, noise, dtype):
    _, O, I, K = shape
    for R, Q in [(I // 2 or 1, O // 2), (I // 4 or 1, min(O // 2, I // 4 * K or 1)), (min(I, O // 3 * K), O // 3)]:
        kernel = gaussian(shape) if noise is None else planted(shape, R, Q, noise)
        ours, peer = error(kernel, hooi(torch.from_numpy(kernel).to(dtype), (R, Q))), tucker2_error(kernel[0], R, Q)
        assert 0.98 * peer <= ours <= 1.001 * peer


@pytest.mark.parametrize("decay", [2, 3, 4, 5, 6])
def test_float32_kernels_of_small_error_are_as_good_as_in_float64(decay):
    kernel = falling((1, 48, 40, 9), decay)
    peer = tucker2_error(kernel[0], 20, 24, tol=1e-12, n_iter_max=50)
    assert 1e-4 < peer < 0.12
    ours = error(kernel, hooi(torch.from_numpy(kernel).float(), (20, 24)))
    assert 0.999 * peer <= ours <= 1.001 * peer + 3e-7


@many_kernels
@given(kernels_and_ranks())
def test_error_lies_between_the_largest_tail_and_that_of_the_truncated_hosvd(case):
    kernel, R, Q = case
    W = torch.from_numpy(kernel)
    total = (kernel**2).sum()
    tails = [
        (np.linalg.svd(m, compute_uv=False)[rank:] ** 2).sum()
        for m, rank in zip(unfoldings(kernel[0]), (R, Q), strict=True)
    ]
    truncated = hosvd_error(kernel[0], R, Q)
    np.testing.assert_allclose(error(kernel, hosvd(W, (R, Q))) ** 2 * total, truncated, atol=1e-10 * total)
    ours = error(kernel, hooi(W, (R, Q))) ** 2 * total
    slack = 1e-10 * total
    assert max(tails) - slack <= ours <= truncated + slack
    assert truncated <= sum(tails) + slack


@many_kernels
@given(kernels_and_ranks(), st.booleans())
def test_error_falls_with_every_sweep_wherever_it_starts(case, random_start):
    kernel, R, Q = case
    W = torch.from_numpy(kernel)
    V, _ = np.linalg.qr(gaussian((kernel.shape[2], R), seed=7))
    start = torch.from_numpy(V)[None] if random_start else None
    errors = [error(kernel, hooi(W, (R, Q), n, tolerance=0, start_GIR=start)) for n in range(1, 7)]
    assert (np.diff(errors) <= 1e-9).all()
    again = hooi(W, (R, Q), 3, tolerance=0, start_GIR=hooi(W, (R, Q), 6, 0, start).V_GIR)
    assert error(kernel, again) <= errors[-1] + 1e-9


def test_sweeps_gain_on_the_truncated_hosvd_and_stop_by_the_tolerance():
    kernel = gaussian((1, 32, 32, 9))
    W = torch.from_numpy(kernel)
    truncated, loose, ours, tight = (
        error(kernel, hooi(W, (16, 16), n, tolerance)) for n, tolerance in [(0, 0), (100, 0.1), (100, 1e-3), (500, 0)]
    )
    assert truncated**2 == pytest.approx(hosvd_error(kernel[0], 16, 16) / (kernel**2).sum(), rel=1e-9)
    assert tight < ours < loose < truncated
    assert 1.01 < truncated / ours < 1.1
    assert ours / tight < 1.005


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_planted_ranks_are_recovered_and_one_less_is_not(shape, dtype, exact):
    R, Q = (2, 5) if shape[3] > 1 else (4, 4)
    kernel = planted(shape, R, Q, noise=0)
    W = torch.from_numpy(kernel).to(dtype)
    assert error(kernel, hooi(W, (R, Q))) < exact
    assert error(kernel, hooi(W, (R, Q), iterations=0)) < exact
    assert 0.03 < error(kernel, hooi(W, (R - 1, Q))) < 0.8
    assert 0.03 < error(kernel, hooi(W, (R, Q - 1))) < 0.8


def test_columns_are_orthonormal_and_the_core_has_the_rest_of_the_norm():
    kernel = gaussian((2, 12, 10, 9))
    U, C, V = hooi(torch.from_numpy(kernel), (4, 5))
    for factor in (U, V):
        one = torch.eye(factor.shape[2], dtype=torch.float64).expand(2, -1, -1)
        torch.testing.assert_close(factor.mT @ factor, one, rtol=0, atol=1e-12)
    lost = error(kernel, (U, C, V)) ** 2 * (kernel**2).sum()
    assert float(C.square().sum()) + lost == pytest.approx((kernel**2).sum(), rel=1e-12)


def test_groups_do_not_mix():
    kernel = gaussian((3, 12, 10, 9))
    W = torch.from_numpy(kernel)
    together = hooi(W, (4, 5), 400, tolerance=0)
    alone = [error(kernel[g : g + 1], [factor[g : g + 1] for factor in together]) for g in range(3)]
    apart = [error(kernel[g : g + 1], hooi(W[g : g + 1], (4, 5), 400, tolerance=0)) for g in range(3)]
    np.testing.assert_allclose(alone, apart, rtol=2e-3)


def test_small_numbers_and_zeros():
    kernel = gaussian((1, 12, 10, 9))
    W = torch.from_numpy(kernel)
    plain, tiny = (error(kernel * by, hooi((W * by).float(), (4, 5))) for by in (1.0, 1e-25))
    assert tiny == pytest.approx(plain, rel=1e-5)
    U, C, V = hooi(torch.zeros(1, 12, 10, 9), (4, 5))
    assert C.abs().sum() == 0
    assert U.isfinite().all()
    assert V.isfinite().all()
    assert (kept_shares(torch.zeros(1, 4, 3, 9)) == 1).all()


def test_same_kernel_gives_the_same_bits_and_stays_as_it_was():
    W = torch.from_numpy(gaussian((2, 24, 20, 9))).float()
    before = W.clone()
    for one, other in zip(hooi(W, (8, 9)), hooi(W, (8, 9)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(W, before)


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 2, 7, 2), (1, 9, 1, 4)])
def test_kept_shares_are_those_of_numpy_at_every_pair_of_ranks(shape):
    kernel = gaussian(shape)
    shares_IO = kept_shares(torch.from_numpy(kernel))
    total = (kernel**2).sum()
    for R in range(1, shape[2] + 1):
        for Q in range(1, shape[1] + 1):
            lost = sum(hosvd_error(group, R, Q) for group in kernel)
            assert shares_IO[R - 1, Q - 1] == pytest.approx(1 - lost / total, abs=1e-12)
    assert shares_IO[-1, -1] == 1


def test_squared_singular_values_are_those_of_numpy():
    for shape in [(2, 5, 9), (1, 9, 4)]:
        matrices = gaussian(shape)
        wanted = (np.linalg.svd(matrices, compute_uv=False) ** 2).sum(axis=0)
        np.testing.assert_allclose(squared_singular_values(torch.from_numpy(matrices)), wanted, rtol=1e-12)


@many_kernels
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4))
def test_rungs_keep_what_lies_above_a_threshold(values):
    spectra = [np.array(sorted(spectrum, reverse=True), dtype=float) for spectrum in values]
    rungs = np.array(along_spectra(spectra))
    assert rungs[0].tolist() == [1] * len(spectra)
    assert rungs[-1].tolist() == [len(spectrum) for spectrum in spectra]
    assert (np.diff(rungs, axis=0).sum(axis=1) == 1).all()
    assert (np.diff(rungs, axis=0) >= 0).all()
    for rung in rungs:
        kept = [value for spectrum, rank in zip(spectra, rung, strict=True) for value in spectrum[1:rank]]
        lost = [value for spectrum, rank in zip(spectra, rung, strict=True) for value in spectrum[rank:]]
        assert min(kept, default=np.inf) >= max(lost, default=-np.inf)
