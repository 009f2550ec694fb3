import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.reconstruct.alternating import alternating, dense_GOD, error
from lowrank_exp.reconstruct.held_rows import HeldRows
from lowrank_exp.reconstruct.kronecker import cholesky_of_seen, inverse_near


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(rows_PD):
    held = HeldRows(10**9, "conv")
    for some in rows_PD.split(70):
        held.add(some[None])
    return (rows_PD.mT @ rows_PD / len(rows_PD))[None], held


def of_a_factor(before, own, after):
    """A, w and B of three factors, and patches of five channels that their kernels make, a row each."""
    A, w, B = drawn(5, 4, *before), drawn(5, 4, *own, seed=1), drawn(5, 6, *after, seed=2)
    kernel = [max(along) for along in zip(before, own, after, strict=True)]
    return A, w, B, drawn(200, 5, *kernel, seed=3)


@pytest.mark.parametrize("own", [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_it_solves_the_normal_equations_where_nothing_after_has_a_kernel(own):
    before = tuple(2 if size == 1 else 1 for size in own)
    A, w, B, x = of_a_factor(before, own, (1, 1))
    second, held = moments(x.flatten(1))

    def normal(weight):
        wide = [one.expand(-1, -1, *x.shape[2:]) for one in (A, weight)]
        kernel = torch.einsum("imhw,omhw,oq->qihw", *wide, B.flatten(1))
        slope = (kernel.flatten(1) @ second[0]).reshape(kernel.shape)
        per_place = torch.einsum("imhw,qihw,oq->omhw", wide[0], slope, B.flatten(1))
        for axis, size in enumerate(own):
            per_place = per_place.sum(dim=2 + axis, keepdim=True) if size == 1 else per_place
        return per_place

    for known in (second, held):
        solve = inverse_near(cholesky_of_seen(A, w, B, known), B)
        torch.testing.assert_close(solve(normal(w)), w, rtol=1e-5, atol=1e-5)


def test_places_after_count_together():
    """N is the sum of what the factor sees at every place of the kernel behind it."""
    A, w, B, x = of_a_factor((1, 1), (3, 1), (1, 4))
    seen = torch.einsum("im,pihw->pwmh", A.flatten(1), x).flatten(2).flatten(0, 1)
    N, L = seen.mT @ seen / len(x), torch.einsum("oqhw,nqhw->on", B, B)
    expected = torch.linalg.solve(L, w.flatten(1)) @ torch.linalg.inv(N)
    for known in moments(x.flatten(1)):
        solved = inverse_near(cholesky_of_seen(A, w, B, known), B)(w)
        torch.testing.assert_close(solved, expected.reshape(w.shape), rtol=1e-5, atol=1e-7)


def test_channels_that_are_never_seen_or_never_passed_on_do_not_matter():
    A, w, B, x = of_a_factor((1, 1), (3, 1), (1, 2))
    A[:, 2], B[4] = 0, 0
    for known in moments(x.flatten(1)):
        assert inverse_near(cholesky_of_seen(A, w, B, known), B)(w).isfinite().all()
    none, second = torch.zeros_like(B), moments(x.flatten(1))[0]
    assert inverse_near(cholesky_of_seen(A, w, none, second), none)(w * 0).abs().max() == 0


@pytest.mark.parametrize("decomposition", ["spatial_svd", "tucker2", "tensor_train", "cp"])
def test_a_fit_ends_where_no_factor_alone_can_be_better(decomposition):
    """By least squares of all entries of a factor at once."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, bias=False)
    kind = decomposition_named(decomposition)
    chain = kind.factorize(conv, {"tucker2": (3, 4), "tensor_train": (3, 4, 4)}.get(decomposition, 5))
    x = drawn(300, 54) @ drawn(54, 54, seed=1).tril()
    second, held = moments(x)
    target = conv.weight.detach().double().flatten(1)[None]
    parts, weights = list(chain), [part.weight.detach().double() for part in chain]
    fitted = alternating(parts, weights, target, second, sweeps=200, tolerance=1e-9)
    reached = error(target, dense_GOD(parts, fitted, 1), second)
    assert reached < 0.9 * error(target, dense_GOD(parts, weights, 1), second)
    root = torch.linalg.cholesky(second[0])
    for turn in range(len(fitted)):

        def dense(weight, turn=turn):
            return (dense_GOD(parts, [*fitted[:turn], weight, *fitted[turn + 1 :]], 1)[0] @ root).flatten()

        basis = torch.eye(fitted[turn].numel(), dtype=torch.float64).reshape(-1, *fitted[turn].shape)
        map_EN = torch.stack([dense(one) for one in basis], dim=1)
        best = torch.linalg.lstsq(map_EN, (target[0] @ root).flatten()[:, None]).solution
        least = ((map_EN @ best)[:, 0] - (target[0] @ root).flatten()).square().sum()
        assert reached == pytest.approx(float(least), rel=1e-4)
    few = alternating(parts, weights, target, held, sweeps=200, tolerance=1e-9)
    assert error(target, dense_GOD(parts, few, 1), second) == pytest.approx(reached, rel=1e-6)
