"""The sum of rank-one tensors: against TensorLy, against planted components, and what every fit keeps to."""

import time

import numpy as np
import pytest
import torch

from lowrank_exp.decomposition.fitting.cp_als import CPFit, cp_als, cp_exact
from lowrank_exp.decomposition.fitting.cp_stable import norm_constrained
from support.cells import cells
from support.layer_cases import relative
from support.tensorly_peers import cp_error

LETTERS = "abcdef"


def gaussian(*sizes, seed=0):
    return np.random.default_rng(seed).standard_normal(sizes)


def planted(sizes, rank, seed=0, noise=0.0):
    """A tensor of `rank` Gaussian components, with noise of a share of its norm."""
    tensor = composed([gaussian(n, rank, seed=seed + 10 * mode) for mode, n in enumerate(sizes)])
    disturbance = gaussian(*sizes, seed=seed + 1000)
    return tensor + noise * np.linalg.norm(tensor) / np.linalg.norm(disturbance) * disturbance


def composed(factors):
    """`sum_r a_r o b_r o ...` by NumPy."""
    modes = LETTERS[: len(factors)]
    return np.einsum(",".join(f"{m}z" for m in modes) + "->" + modes, *factors)


def error_of(fit, tensor):
    return relative(composed([factor.double().numpy() for factor in fit.factors]), tensor)


def component_norms(fit):
    return float(np.prod([np.linalg.norm(factor.double().numpy(), axis=-2) for factor in fit.factors], axis=0).sum())


@cells("seed", range(3))
@cells(
    ("sizes", "rank"),
    [((16, 12, 3, 3), 4), ((16, 12, 9), 4), ((16, 12, 3, 3), 12), ((12, 16, 9), 12), ((32, 32, 3, 3), 16)],
)
def test_planted_components_are_found(sizes, rank, seed):
    tensor = planted(sizes, rank, seed)
    assert 0 <= error_of(cp_als(torch.from_numpy(tensor), rank), tensor) < 1e-6
    assert 0 <= error_of(cp_als(torch.from_numpy(tensor).float(), rank), tensor) < 1e-5
    assert cp_als(torch.from_numpy(tensor), rank - 1).relative_error > 1e-2


@pytest.mark.parametrize("noise", [None, 0.1], ids=["random", "low rank with noise"])
@pytest.mark.parametrize(("sizes", "rank"), [((16, 12, 3, 3), 8), ((16, 12, 9), 8), ((12, 16, 9), 20), ((60, 3, 3), 4)])
def test_error_is_at_most_that_of_tensorly(sizes, rank, noise):
    tensor = gaussian(*sizes) if noise is None else planted(sizes, rank, noise=noise)
    fit = cp_als(torch.from_numpy(tensor), rank, restarts=4)
    assert 0.02 < fit.relative_error <= 1.001 * cp_error(tensor, rank)


@pytest.mark.parametrize("init", ["auto", "slices", "hosvd", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reported_error_is_that_of_the_factors(init, dtype):
    tensor = gaussian(10, 8, 3, 3)
    fit = cp_als(torch.from_numpy(tensor).to(dtype), 6, init=init, max_iterations=10)
    assert fit.factors[0].dtype == dtype
    assert 0.3 < fit.relative_error == pytest.approx(error_of(fit, tensor), rel=1e-6)
    assert (fit.iterations, fit.stopped_because) == (10, "iterations")


@pytest.mark.parametrize("acceleration", [True, False])
def test_errors_never_rise(acceleration):
    tensor = torch.from_numpy(planted((12, 12, 9), 10, noise=0.05))
    errors = [
        cp_als(tensor, 10, init="random", acceleration=acceleration, max_iterations=sweeps).relative_error
        for sweeps in range(1, 31)
    ]
    assert (np.diff(errors) <= 1e-12).all()
    assert errors[-1] < 0.7 * errors[0]


def test_extrapolation_needs_fewer_sweeps():
    tensor = torch.from_numpy(gaussian(32, 32, 3, 3))
    plain = cp_als(tensor, 40, acceleration=False, max_iterations=60)
    fast = cp_als(tensor, 40, target_error=plain.relative_error)
    assert 2 < fast.iterations < 40
    assert fast.stopped_because == "target error"
    assert fast.relative_error <= plain.relative_error


def test_a_sweep_without_extrapolation_is_that_of_least_squares():
    # One sweep over (I, K) and then O, from the same factors, by NumPy's least squares.
    tensor, factors = gaussian(6, 5, 4), [gaussian(n, 3, seed=n) for n in (6, 5, 4)]
    start = [torch.from_numpy(factor) for factor in factors]
    for mode in (1, 2, 0):
        others = [factors[m] for m in range(3) if m != mode]
        khatri_rao = np.einsum("ar,br->abr", *others).reshape(-1, 3)
        factors[mode] = np.linalg.lstsq(khatri_rao, np.moveaxis(tensor, mode, 0).reshape(len(factors[mode]), -1).T)[0].T
    fit = cp_als(torch.from_numpy(tensor), 3, init=start, max_iterations=1, ridge=0.0)
    np.testing.assert_allclose(composed([f.numpy() for f in fit.factors]), composed(factors), rtol=1e-9, atol=1e-9)


def test_tensors_of_a_batch_are_fitted_each_by_itself():
    tensors = torch.from_numpy(gaussian(2, 3, 8, 6, 4))
    together = cp_als(tensors, 5, batch_axes=2, max_iterations=20)
    assert [tuple(factor.shape) for factor in together.factors] == [(2, 3, 8, 5), (2, 3, 6, 5), (2, 3, 4, 5)]
    for at in np.ndindex(2, 3):
        alone = cp_als(tensors[at], 5, max_iterations=20)
        assert float(together.errors[at]) == pytest.approx(alone.relative_error, rel=1e-6)
    norms = tensors.flatten(2).norm(dim=2)
    total = ((together.errors * norms) ** 2).sum().sqrt() / norms.square().sum().sqrt()
    assert together.relative_error == pytest.approx(float(total), rel=1e-12)


def test_norm_of_a_component_is_spread_equally():
    fit = cp_als(torch.from_numpy(100 * gaussian(10, 8, 3, 3)), 6)
    norms = np.stack([factor.norm(dim=0).numpy() for factor in fit.factors])
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), rtol=1e-10)


def test_matrices_of_all_kernel_entries_are_exact_together():
    tensor = gaussian(5, 7, 2, 3)
    fit = cp_exact(torch.from_numpy(tensor))
    assert [tuple(factor.shape) for factor in fit.factors] == [(5, 30), (7, 30), (2, 30), (3, 30)]
    assert error_of(fit, tensor) < 1e-13
    assert fit.relative_error < 1e-13


def test_two_modes_are_a_truncated_svd():
    matrix = gaussian(9, 7)
    values = np.linalg.svd(matrix, compute_uv=False)
    fit = cp_als(torch.from_numpy(matrix), 3, tolerance=1e-9)
    assert fit.relative_error == pytest.approx(np.sqrt((values[3:] ** 2).sum() / (values**2).sum()), rel=1e-6)


def test_zeros_and_tensors_beside_zeros():
    tensor = torch.zeros(2, 6, 5, 4, dtype=torch.float64)
    assert cp_als(tensor, 3, batch_axes=1).relative_error == 0.0
    tensor[1] = torch.from_numpy(planted((6, 5, 4), 3))
    fit = cp_als(tensor, 3, batch_axes=1)
    assert fit.errors[0] == 0
    assert 0 <= float(fit.errors[1]) < 1e-6
    assert fit.factors[0][0].abs().max() == 0
    assert all(factor.isfinite().all() for factor in fit.factors)


def test_more_components_than_the_tensor_has_do_no_harm():
    tensor = planted((8, 7, 5), 2)
    assert error_of(cp_als(torch.from_numpy(tensor), 6), tensor) < 1e-6


def test_same_input_same_bits_and_no_global_randomness():
    tensor = torch.from_numpy(gaussian(12, 10, 9)).float()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = cp_als(tensor, 4, init="random"), cp_als(tensor, 4, init="random")
    other = cp_als(tensor, 4, init="random", seed=1, max_iterations=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, two) for one, two in zip(first.factors, second.factors, strict=True))
    assert not torch.equal(other.factors[0], first.factors[0])


def test_a_fit_stopped_by_the_clock_warns():
    tensor = torch.from_numpy(gaussian(32, 32, 9))
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="stopped after 0.01 s .* still falling; allow more max_seconds"):
        fit = cp_als(tensor, 30, max_seconds=0.01, tolerance=0.0, max_iterations=100000)
    assert fit.stopped_because == "time"
    assert 1 <= fit.iterations < 100000
    assert 0.01 < time.perf_counter() - began < 10


def test_components_that_cancel_shrink_at_the_same_error():
    # a o a o b + a o b o a + b o a o a is the limit of n (a + b/n) o (a + b/n) o (a + b/n) - n a o a o a.
    (a, b), n = np.eye(2), 20
    tensor = torch.from_numpy(composed(np.stack([[a, a, b], [a, b, a], [b, a, a]]).transpose(1, 2, 0)))
    first, other = np.stack([n * (a + b / n), -n * a], 1), np.stack([a + b / n, a], 1)
    factors = [torch.from_numpy(factor) for factor in (first, other, other)]
    error = relative(composed([first, other, other]), tensor)
    degenerate = CPFit(tuple(factors), error, torch.tensor(error), 0, "iterations")
    assert component_norms(degenerate) > 40

    stable = norm_constrained(tensor, degenerate)
    assert 0.99 * error < stable.relative_error <= 1.001 * error * (1 + 1e-6)
    assert stable.relative_error == pytest.approx(error_of(stable, tensor), rel=1e-6)
    assert 1 < component_norms(stable) < 5

    # A fit without a bound goes the same way: the less the error, the larger what cancels.
    fit = cp_als(tensor, 2, tolerance=0.0)
    assert fit.relative_error < 1e-3
    assert component_norms(fit) > 20
    bounded = norm_constrained(tensor, fit, slack=0.01 / fit.relative_error - 1)
    assert bounded.relative_error == pytest.approx(0.01, rel=1e-3)
    assert 1 < component_norms(bounded) < 0.5 * component_norms(fit)


def test_stable_components_of_a_batch_keep_every_bound():
    tensors = torch.from_numpy(gaussian(2, 10, 10, 9))
    fit = cp_als(tensors, 16, batch_axes=1, init="random", max_iterations=60)
    stable = norm_constrained(tensors, fit, slack=0.01)
    assert (stable.errors <= 1.01 * fit.errors * (1 + 1e-9)).all()
    assert (stable.errors > 0.99 * fit.errors).all()
    assert component_norms(stable) < 0.9 * component_norms(fit)
    with pytest.raises(ValueError, match="slack must be 0 or more, got -1"):
        norm_constrained(tensors, fit, slack=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "svd"}, "init must be one of auto, slices, pencil, hosvd, random, or factors; got 'svd'"),
        ({"init": "pencil", "rank": 5}, "pencil needs a rank of at most 4 and two matrices or more, got 5 and 3"),
        ({"init": [torch.zeros(4, 2)] * 3}, r"factors of shapes \[\(5, 2\), \(4, 2\), \(3, 2\)\], got"),
        ({"rank": 0}, "rank and max_iterations must be 1 or more, got 0"),
        ({"max_iterations": 0}, "rank and max_iterations must be 1 or more, got 2 and 0"),
        ({"tolerance": -1}, "must be 0 or more, got 1e-09, -1, inf"),
        ({"batch_axes": 2}, r"a CP needs two modes or more, got a tensor of sizes \(3,\)"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        cp_als(torch.zeros(5, 4, 3), **{"rank": 2, **options})
