"""EVBMF beside a textbook transcription, a grid over the noise variance, and planted ranks."""

import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from lowrank_exp.rank import Budget, Candidate, Cost, Problem, allocate
from lowrank_exp.rank.evbmf_solution import evbmf_rank, evbmf_solution, singular_values, strength, strength_bar
from lowrank_exp.rank.layer_shape import LayerShape
from lowrank_exp.rank.policies.evbmf import evbmf
from support.cells import cells
from support.profiles import by_hand, changed, layer, network
from support.textbook_evbmf import textbook_bounds, textbook_omega, textbook_reference, textbook_shrunk


def planted(rows, columns, rank, noise, seed=0, strength=1.0):
    """Gaussian factors and Gaussian noise, both with entries of size one where `strength` and `noise` are one."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)) / math.sqrt(max(rank, 1))
    return strength * signal + noise * rng.normal(size=(rows, columns))


def falling(rows, columns, power, seed=0):
    """A matrix whose singular values fall as k^-power, as those of trained kernels do."""
    rng = np.random.default_rng(seed)
    U, _, V = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return U * np.arange(1.0, len(V) + 1) ** -power @ V


def exact_tau_bar(alpha):
    def gain(tau):
        return math.log1p(tau) + alpha * math.log1p(tau / alpha) - tau

    return brentq(gain, 1.01 * math.sqrt(alpha), 1e3 * math.sqrt(alpha), xtol=1e-18, rtol=1e-14)


def textbook_global(s, M, points):
    """Rank and noise variance of the best of a fine grid between the paper's bounds, and the free energy."""
    L, alpha = len(s), len(s) / M
    tau_bar = exact_tau_bar(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    free_energy = partial(textbook_omega, s=s, alpha=alpha, M=M, x_bar=x_bar)
    best = min(np.geomspace(*textbook_bounds(s, L, M, x_bar), points), key=free_energy)
    return int(np.sum(s > np.sqrt(M * best * x_bar))), best, free_energy


MATRICES = {
    "square": planted(40, 40, 5, 0.3),
    "wide": planted(30, 270, 7, 1.0, seed=1),
    "tall": planted(200, 24, 3, 0.5, seed=2),
    "noise": planted(25, 100, 0, 1.0, seed=3),
    "slow": falling(48, 432, 0.5, seed=4),
    "fast": falling(48, 48, 1.5, seed=5),
    "like a kernel": 0.05 * falling(64, 576, 0.7, seed=6),
    "small entries": 1e-3 * planted(32, 288, 6, 0.8, seed=7),
    "one row": planted(1, 9, 1, 0.1, seed=8),
    "two rows": planted(2, 50, 1, 0.1, seed=9),
    "float32": planted(32, 96, 8, 0.4, seed=10).astype(np.float32),
}


@pytest.fixture(params=MATRICES)
def matrix(request):
    return MATRICES[request.param]


@pytest.mark.parametrize(
    ("L", "M", "tau", "x", "x_reference"),
    [
        (4, 4, 2.51286, 4.91081, 4.91085),
        (3, 4, 2.17743, 4.27187, 4.27087),
        (2, 4, 1.78264, 3.56312, 3.55828),
        (1, 4, 1.27261, 2.71905, 2.70542),
        (1, 9, 0.86417, 2.10386, 2.08139),
        (1, 10, 0.82221, 2.04383, 2.02049),
        (1, 100, 0.28288, 1.32823, 1.30108),
    ],
)
def test_thresholds_as_tabulated(L, M, tau, x, x_reference):
    assert strength_bar(L / M) == pytest.approx(tau, abs=6e-6)
    for solver, expected in (("global", x), ("reference", x_reference)):
        for sigma2 in (1.0, 0.04):
            threshold = evbmf_solution(np.ones(L), L, M, solver, sigma2).threshold
            assert threshold**2 / (M * sigma2) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.6, 0.1, 1e-3, 1e-6, 1e-9])
def test_the_exact_threshold_is_where_a_component_begins_to_pay(alpha):
    assert strength_bar(alpha) == pytest.approx(exact_tau_bar(alpha), rel=1e-9)


def test_strength_inverts_its_definition():
    tau = np.array([0.8, 2.0, 50.0])
    for alpha in (1.0, 0.5, 0.01):
        stronger = tau + math.sqrt(alpha)
        np.testing.assert_allclose(strength((1 + stronger) * (1 + alpha / stronger), alpha), stronger, rtol=1e-10)


def test_the_reference_is_the_textbook(matrix):
    rank, sigma2, shrunk = textbook_reference(matrix.astype(np.float64))
    found = evbmf_solution(singular_values(matrix), *matrix.shape, "reference")
    assert found.rank == rank
    assert found.sigma2 == pytest.approx(sigma2, rel=1e-6)
    np.testing.assert_allclose(found.shrunk, shrunk, rtol=1e-5)


def test_the_global_solution_is_the_best_of_a_grid(matrix):
    s, M = np.linalg.svd(matrix.astype(np.float64))[1], max(matrix.shape)
    rank, sigma2, free_energy = textbook_global(s, M, points=1500)
    found = evbmf_solution(singular_values(matrix), *matrix.shape)
    assert found.rank == rank
    assert found.sigma2 == pytest.approx(sigma2, rel=5e-3)
    # Not above the best of the grid, and not below it by more than so fine a grid can miss.
    assert -2e-3 <= free_energy(found.sigma2) - free_energy(sigma2) <= 1e-9
    np.testing.assert_allclose(found.shrunk, textbook_shrunk(s[:rank], len(s), M, found.sigma2), rtol=1e-6)


SPECTRA = {
    "gamma": lambda rng, L: rng.gamma(rng.choice([0.3, 1, 3]), size=L) + 1e-3,
    "lognormal": lambda rng, L: np.exp(rng.normal(0, rng.choice([0.1, 1, 2]), size=L)),
    "steps": lambda rng, L: rng.integers(1, 5, size=L) ** 2.0,
}


@pytest.mark.parametrize("kind", SPECTRA)
def test_the_global_solution_is_the_best_of_a_grid_for_any_spectrum(kind):
    rng = np.random.default_rng(11)
    ranks = []
    for _ in range(20):
        L = int(rng.integers(1, 20))
        M = L * int(rng.choice([1, 2, 9])) + int(rng.integers(0, 3))
        s = np.sort(SPECTRA[kind](rng, L))[::-1]
        rank, sigma2, free_energy = textbook_global(s, M, points=300)
        found = evbmf_solution(s, L, M)
        energy = free_energy(sigma2)
        assert free_energy(found.sigma2) <= energy + 1e-9 * abs(energy)
        assert found.rank == rank
        ranks.append(rank)
    assert min(ranks) == 0
    assert max(ranks) >= 3


def test_the_reference_stops_before_the_least_minimum_where_weights_are_small():
    matrix = MATRICES["like a kernel"]
    assert evbmf_rank(matrix, "reference") == textbook_reference(matrix)[0] == 10
    assert evbmf_rank(matrix) == textbook_global(np.linalg.svd(matrix)[1], 576, points=1500)[0] == 21
    # The least minimum does not depend on the unit of the weights, the search of the reference does.
    for unit in (1e-6, 1e-2, 1.0, 1e4):
        assert evbmf_rank(unit * matrix) == 21
    assert evbmf_rank(100 * matrix, "reference") == textbook_reference(100 * matrix)[0] == 21


def stronger_than_noise(rows, columns, rank, noise, margin, seed):
    """Orthogonal components of `margin` to `3 margin` times the singular value at which one is told from noise."""
    rng = np.random.default_rng(seed)
    L, M = sorted((rows, columns))
    tau_bar = exact_tau_bar(L / M)
    threshold = noise * math.sqrt(M * (1 + tau_bar) * (1 + L / M / tau_bar))
    U, V = (np.linalg.qr(rng.normal(size=(side, rank)))[0] for side in (rows, columns))
    return U * np.linspace(margin, 3 * margin, rank) * threshold @ V.T + noise * rng.normal(size=(rows, columns))


@cells("solver", ["global", "reference"])
@cells("noise", [0.05, 0.5, 4.0])
@cells(("rows", "columns"), [(60, 60), (60, 120), (40, 360), (360, 40), (16, 800), (128, 200)])
def test_planted_ranks_are_recovered(rows, columns, noise, solver):
    for ratio in (0.02, 0.1, 0.25, 0.33):
        rank = max(1, round(ratio * min(rows, columns)))
        matrix = stronger_than_noise(rows, columns, rank, noise, 2.0, seed=rank)
        assert evbmf_rank(matrix, solver) == rank
        assert evbmf_rank(torch.from_numpy(matrix.T).float(), solver) == rank
        found = evbmf_solution(singular_values(matrix), rows, columns, solver)
        # Of L M entries' worth of noise, (L - r)(M - r) lie outside the components, shared by L M - r (L + M).
        L, M = sorted((rows, columns))
        expected = noise**2 * (L - rank) * (M - rank) / (L * M - rank * (L + M))
        assert found.sigma2 == pytest.approx(expected, rel=0.15)


def test_the_reference_can_be_caught_in_another_minimum_whatever_the_unit():
    for noise in (0.05, 4.0):
        matrix = stronger_than_noise(60, 60, 24, noise, 2.0, seed=24)
        assert evbmf_rank(matrix) == 24
        assert evbmf_rank(matrix, "reference") == textbook_reference(matrix)[0] == 7


@pytest.mark.parametrize("solver", ["global", "reference"])
def test_components_weaker_than_noise_are_not_counted(solver):
    matrix = stronger_than_noise(60, 200, 5, 0.5, 1.5, seed=0) + stronger_than_noise(60, 200, 8, 1e-9, 4e7, seed=1)
    assert np.linalg.matrix_rank(stronger_than_noise(60, 200, 8, 1e-9, 4e7, seed=1), tol=1e-6) == 8
    assert evbmf_rank(matrix, solver) == 5


@pytest.mark.parametrize("solver", ["global", "reference"])
def test_noise_alone_has_rank_zero_and_says_so(solver):
    matrix = planted(50, 150, 0, 1.0)
    with pytest.warns(UserWarning, match=r"nothing in this 50 x 150 matrix stands above the noise: EVBMF rank 0"):
        assert evbmf_rank(matrix, solver) == 0
    with pytest.warns(UserWarning, match="4 x 6 matrix"):
        assert evbmf_rank(np.zeros((4, 6)), solver) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evbmf_rank(planted(50, 150, 2, 1.0), solver) == 2
    assert evbmf_solution(np.zeros(4), 4, 6, solver)[:3] == (0, 0.0, 0.0)
    assert evbmf_solution(np.zeros(4), 4, 6, solver).shrunk.shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_low_rank_has_no_noise(dtype):
    matrix = planted(30, 50, 4, 0.0).astype(dtype)
    found = evbmf_solution(singular_values(matrix), 30, 50)
    assert found[:3] == (4, 0.0, 0.0)
    np.testing.assert_allclose(found.shrunk, np.linalg.svd(matrix.astype(np.float64))[1][:4], rtol=1e-9)
    assert evbmf_rank(matrix, "reference") == 4


@pytest.mark.parametrize("solver", ["global", "reference"])
def test_dead_filters_leave_the_noise_to_the_others(solver):
    """Rows of zeros: as rows of next to nothing, for which the textbook's logarithms exist."""
    matrix = planted(40, 90, 5, 0.5)
    matrix[::8] = 0
    s = singular_values(matrix)
    tiny = np.where(np.arange(40) < 35, s, 1e-9)
    found = evbmf_solution(s, 40, 90, solver)
    if solver == "global":
        rank, sigma2, _ = textbook_global(tiny, 90, points=5000)
    else:
        rank, sigma2, _ = textbook_reference(matrix + 1e-9 * np.random.default_rng(0).normal(size=matrix.shape))
    assert found.rank == rank == 5
    assert found.sigma2 == pytest.approx(sigma2, rel=2e-3)


def test_a_known_variance_is_taken():
    s = np.array([10.0, 6.0, 3.0, 1.0])
    for solver, x_bar in (("global", 3.56312), ("reference", 3.55828)):
        for sigma2 in (0.01, 0.3, 1.0, 4.0, 50.0):
            found = evbmf_solution(s, 8, 4, solver, sigma2)
            assert found.rank == np.sum(s**2 > 8 * sigma2 * x_bar)
            assert found.sigma2 == sigma2
            np.testing.assert_allclose(found.shrunk, textbook_shrunk(s[: found.rank], 4, 8, sigma2), rtol=1e-10)
    matrix = planted(30, 60, 3, 0.2)
    assert evbmf_rank(matrix, sigma2=0.04) == 3
    with pytest.warns(UserWarning, match="EVBMF rank 0"):
        assert evbmf_rank(matrix, sigma2=40.0) == 0


def test_singular_values_are_numpys_whatever_the_type_and_the_side():
    matrix = planted(12, 70, 6, 0.3)
    expected = np.linalg.svd(matrix, compute_uv=False)
    for one in (matrix, matrix.T, matrix[:, ::-1], torch.from_numpy(matrix), torch.from_numpy(matrix).T):
        np.testing.assert_allclose(singular_values(one), expected, rtol=1e-10)
    half = torch.from_numpy(matrix).bfloat16().requires_grad_()
    np.testing.assert_allclose(
        singular_values(half), np.linalg.svd(half.detach().double().numpy(), compute_uv=False), rtol=1e-10
    )


def test_the_order_of_singular_values_does_not_matter():
    s = singular_values(MATRICES["wide"])
    shuffled = np.random.default_rng(0).permutation(s)
    for solver in ("global", "reference"):
        one, other = (evbmf_solution(values, 30, 270, solver) for values in (s, shuffled))
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one.shrunk, other.shrunk)


@cells(
    ("call", "message"),
    [
        (lambda: evbmf_rank(np.ones(4)), r"takes a matrix with rows and columns, got the shape \(4,\)"),
        (lambda: evbmf_rank(torch.ones(2, 3, 4)), r"got the shape \(2, 3, 4\)"),
        (lambda: evbmf_rank(np.ones((0, 4))), r"got the shape \(0, 4\)"),
        (lambda: evbmf_rank(np.array([[1.0, np.nan]])), "entries that are not finite"),
        (lambda: evbmf_rank(np.ones((2, 2)), "exact"), "solver='exact' is not known: global .* or reference"),
        (lambda: evbmf_solution(np.ones(3), 4, 6), r"a 4 x 6 matrix has 4 singular values, got .* \(3,\)"),
        (lambda: evbmf_solution(np.array([]), 0, 6), r"a 0 x 6 matrix has 0 singular values, got .* \(0,\)"),
        (lambda: evbmf_solution(np.array([1.0, -1.0]), 2, 6), r"must be finite and 0 or more, got .* -1.0 to 1.0"),
        (lambda: evbmf_solution(np.array([1.0, np.inf]), 2, 6), "must be finite and 0 or more"),
        (lambda: evbmf_solution(np.ones(2), 2, 6, sigma2=0.0), "sigma2=0.0 is not a variance of noise"),
        (lambda: evbmf_solution(np.ones(2), 2, 6, sigma2=math.nan), "sigma2=nan is not a variance of noise"),
    ],
)
def test_what_is_no_matrix_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The policy


def spectra(*matrices):
    return np.stack([singular_values(matrix) for matrix in matrices])


def measured(name, *matrices, kind="conv", dense=10**6):
    """A layer decomposed by an SVD of one matrix per group; rank 1 costs 100."""
    values = spectra(*matrices)
    profile = layer(name, dense, dense, 100, 100, values[0], kind)
    return changed(profile, singular_values=values, unfoldings=((values, max(matrices[0].shape)),))


def one(**options):
    """The ranks of two layers with 6 and 11 components, of 40 and 64."""
    layers = network(measured("a", planted(40, 90, 6, 0.3)), measured("b", planted(200, 64, 11, 0.3, seed=1)))
    return allocate(layers, evbmf, **options).ranks


def test_every_layer_takes_the_rank_of_its_matrix():
    assert one() == {"a": 6, "b": 11}
    assert one(solver="reference") == {"a": 6, "b": 11}


def test_solvers_differ_where_weights_are_small():
    layers = network(measured("a", MATRICES["like a kernel"]))
    assert allocate(layers, evbmf).ranks == {"a": 21}
    assert allocate(layers, evbmf, solver="reference").ranks == {"a": 10}


@pytest.mark.parametrize(
    ("weaken", "a", "b"), [(1, 6, 11), (0.9, 9, 16), (0.5, 23, 37), (0.25, 31, 50), (1e-9, 39, 63)]
)
def test_weakened_ranks_lie_between_the_full_rank_and_that_of_evbmf(weaken, a, b):
    """40 - 34 w and 64 - 53 w, rounded down."""
    assert one(weaken=weaken) == {"a": a, "b": b}


@pytest.mark.parametrize(("multiple", "a", "b"), [(1, 6, 11), (3, 6, 12), (8, 8, 16), (16, 16, 16), (48, None, 48)])
def test_ranks_are_raised_to_a_multiple(multiple, a, b):
    assert one(multiple=multiple) == {"a": a, "b": b}


def test_rounding_comes_after_weakening():
    assert one(weaken=0.9, multiple=8) == {"a": 16, "b": 16}


def test_the_group_with_most_components_decides():
    groups = [planted(30, 60, rank, 0.2, seed=rank) for rank in (2, 9, 4)]
    assert allocate(network(measured("a", *groups)), evbmf).ranks == {"a": 9}


def test_a_layer_of_noise_keeps_rank_one_and_the_warning_names_it():
    layers = network(measured("noisy", planted(30, 60, 0, 1.0)), measured("zero", np.zeros((3, 4))))
    with pytest.warns(UserWarning, match="EVBMF rank 0") as caught:
        assert allocate(layers, evbmf).ranks == {"noisy": 1, "zero": 1}
    assert [str(w.message).partition(" (")[0] for w in caught] == [
        "noisy: nothing in its 30 x 60 unfolding stands above the noise",
        "zero: nothing in its 3 x 4 unfolding stands above the noise",
    ]


def test_rules_bound_and_a_rank_that_is_not_cheaper_stays_dense():
    layers = network(
        measured("low", planted(40, 90, 6, 0.3)),
        measured("high", planted(40, 90, 6, 0.3)),
        measured("dear", planted(40, 90, 6, 0.3), dense=600),
        measured("cheap", planted(40, 90, 6, 0.3), dense=601),
    )
    plan = allocate(layers, evbmf, rules={"low": {"max": 4}, "high": {"min": 9}})
    assert plan.ranks == {"low": 4, "high": 9, "dear": None, "cheap": 6}
    assert plan.layers["dear"].reason == "the rank that evbmf wished is not cheaper than dense"


I, O, K = 24, 32, 9


def tucker(in_rank, out_rank, weights=I * O * K, rungs=None, unfoldings=None):
    """A Tucker-2 layer of a kernel with planted ranks; its ladder raises both ranks by one until one is full."""
    rng = np.random.default_rng(5)
    U, V = rng.normal(size=(O, out_rank)), rng.normal(size=(I, in_rank))
    core = rng.normal(size=(out_rank, in_rank, K))
    kernel_OIK = np.einsum("oq,qrk,ir->oik", U, core, V) / math.sqrt(in_rank * out_rank)
    kernel_OIK += 0.3 * rng.normal(size=kernel_OIK.shape)
    in_values = spectra(kernel_OIK.transpose(1, 0, 2).reshape(I, O * K))
    out_values = spectra(kernel_OIK.reshape(O, I * K))
    ladder = tuple((min(r, I), r) for r in range(1, O + 1))

    def cost(rank):
        factors = I * rank[0] + K * rank[0] * rank[1] + O * rank[1]
        return Cost(100 * factors, factors)

    costs = [cost(rank) for rank in ladder]
    profile = by_hand(
        "conv",
        "conv",
        100 * weights,
        weights,
        "tucker2",
        np.array([c.macs for c in costs]),
        np.array([c.weights for c in costs]),
        ranks=ladder,
        kept=np.linspace(0.1, 1, O),
        shape=LayerShape.of(torch.nn.Conv2d(I, O, 3, padding=1, device="meta"), [(1, I, 10, 10)]),
        unfoldings=((in_values, O * K), (out_values, I * K)) if unfoldings is None else unfoldings,
        made_up=unfoldings is not None,
    )
    cheaper = tuple(r for r, c in enumerate(costs, start=1) if c.macs < profile.macs)
    dense = {"macs": profile.macs, "weights": weights, "bytes": 4 * weights}
    return Problem(
        (Candidate(profile, (*cheaper, None) if rungs is None else rungs),), dict.fromkeys(dense, 0), dense, Budget()
    )


@pytest.mark.parametrize("pair", [(3, 5), (7, 2), (1, 1), (10, 12)])
def test_tucker_has_a_rank_for_the_in_and_one_for_the_out_channels(pair):
    assert evbmf(tucker(*pair)) == {"conv": pair}
    assert evbmf(tucker(*pair), solver="reference") == {"conv": pair}


def test_a_pair_is_weakened_and_rounded_one_by_one():
    assert evbmf(tucker(3, 5), weaken=0.8) == {"conv": (7, 10)}  # 24 - 0.8 x 21, 32 - 0.8 x 27
    assert evbmf(replace(tucker(3, 5), multiple=8)) == {"conv": (8, 8)}
    assert evbmf(replace(tucker(3, 9), multiple=16)) == {"conv": (16, 16)}


def test_a_pair_that_is_not_cheaper_stays_dense():
    # 24 x 3 + 9 x 15 + 32 x 5 = 367
    assert evbmf(tucker(3, 5, weights=367)) == {"conv": None}
    assert evbmf(tucker(3, 5, weights=368)) == {"conv": (3, 5)}


def test_rules_bound_both_numbers_of_a_pair():
    assert evbmf(tucker(3, 5, rungs=(1, 2, 3, 4))) == {"conv": (3, 4)}  # at most 4
    assert evbmf(tucker(3, 5, rungs=(4, 5, 6, 7, None))) == {"conv": (4, 5)}  # at least 4
    assert evbmf(tucker(3, 5, rungs=(6, 7))) == {"conv": (6, 6)}
    # As none but (1, 1) is cheaper and dense is not allowed, it is taken.
    assert evbmf(tucker(3, 5, weights=66, rungs=(1,))) == {"conv": (1, 1)}


def test_without_numbers_the_middle_of_the_options_stands_in():
    nothing = ((np.ones((1, 0)), O * K), (np.ones((1, 0)), I * K))
    problem = tucker(3, 5, unfoldings=nothing)
    ranks = problem.candidates[0].ranks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evbmf(problem) == {"conv": ranks[(len(ranks) - 1) // 2]}
    assert ranks[(len(ranks) - 1) // 2] == (13, 13)


@cells(
    ("options", "message"),
    [
        ({"macs": 0.5}, r"the evbmf policy takes no budget, got {'macs': 0.5}: .* Set macs to null"),
        ({"solver": "local"}, "solver='local' is not known"),
        ({"weaken": 0}, r"weaken=0 is not in \(0, 1\]"),
        ({"weaken": 1.01}, r"weaken=1.01 is not in \(0, 1\]"),
        ({"weaken": True}, r"weaken=True is not in \(0, 1\]"),
        ({"weaken": float("nan")}, r"weaken=nan is not in \(0, 1\]"),
        ({"multiple": 0}, "multiple=0 is not a positive integer"),
        ({"multiple": 8.0}, r"multiple=8.0 is not a positive integer"),
        ({"multiple": True}, "multiple=True is not a positive integer"),
        ({"share": 0.9}, r"the evbmf policy has no option \['share'\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        one(**options)


def test_a_decomposition_without_unfoldings_is_named():
    problem = tucker(3, 5, unfoldings=())
    with pytest.raises(ValueError, match=r"conv: the evbmf policy needs the singular values .* tucker2 has none"):
        evbmf(problem)
