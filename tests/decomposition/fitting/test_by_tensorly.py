"""The fits of TensorLy behind our layers, beside TensorLy called here."""

import math

import numpy as np
import pytest
import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker
from torch import nn

from lowrank_exp.decomposition import CP, TensorTrain, Tucker2, decomposition_named, recompose
from lowrank_exp.decomposition.fitting.by_tensorly import cp_by_tensorly
from support.cells import cells


def layer(groups=1, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(8, 12, 3, groups=groups)


def error(kind, dense, rank):
    weight = dense.weight.detach().double()
    return float((recompose(kind.factorize(dense, rank)).weight.detach().double() - weight).norm() / weight.norm())


def left_by(kernel, made):
    return float(np.linalg.norm(kernel - made) / np.linalg.norm(kernel))


@cells("spatial", ["separate", "merged"])
def test_cp_is_parafac(spatial):
    dense = layer()
    kernel = dense.weight.detach().double().numpy()
    tensor = kernel if spatial == "separate" else kernel.reshape(12, 8, 9)
    expected = left_by(tensor, tensorly.cp_to_tensor(parafac(tensor, 6, 30, random_state=3)))
    found = error(CP(spatial, max_iterations=30, seed=3, solver="tensorly"), dense, 6)
    assert found == pytest.approx(expected, rel=1e-5)
    fit = cp_by_tensorly(torch.from_numpy(tensor)[None], 6, 30, 3)
    assert fit.relative_error == pytest.approx(expected, rel=1e-9) == float(fit.errors[0])
    norms = [factor.norm(dim=1) for factor in fit.factors]
    assert all(torch.allclose(norm, norms[0]) for norm in norms)


def test_tucker_is_partial_tucker():
    dense = layer()
    kernel = dense.weight.detach().double().numpy().reshape(12, 8, 9)
    (core, factors), _ = partial_tucker(kernel, (5, 3), modes=[0, 1], n_iter_max=20, random_state=0)
    made = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    found = error(Tucker2(iterations=20, solver="tensorly"), dense, (3, 5))
    assert found == pytest.approx(left_by(kernel, made), rel=1e-5)


def test_both_solvers_agree_at_equal_ranks():
    for groups in (1, 2):
        dense = layer(groups)
        assert error(TensorTrain("tensorly"), dense, (3, 5, 4)) == pytest.approx(
            error(TensorTrain(), dense, (3, 5, 4)), rel=1e-5
        )
        for kind, options, rank in ((Tucker2, {}, (2, 3)), (CP, {}, 5), (CP, {"stable": True}, 5)):
            theirs, ours = (error(kind(**options, solver=solver), dense, rank) for solver in ("tensorly", "ours"))
            assert theirs == pytest.approx(ours, rel=0.02)
            assert 0.1 < theirs < 1


def test_more_components_than_a_side_has_are_no_matter_for_warnings():
    """Warnings are errors here; TensorLy gives some of them, and its backend is the one that was set before."""
    tensorly.set_backend("numpy")
    assert error(CP(solver="tensorly", max_iterations=20), layer(), 20) < 0.75
    assert error(Tucker2(solver="tensorly"), layer(), (8, 12)) == pytest.approx(0, abs=1e-6)
    assert tensorly.get_backend() == "numpy"
    one_axis = nn.Conv1d(6, 6, 3)
    for kind, rank in ((CP, 5), (Tucker2, (3, 3)), (TensorTrain, (2, 4))):
        assert 0 < error(kind(solver="tensorly"), one_axis, rank) < 1


def test_files_of_before_have_no_solver_and_new_ones_name_theirs():
    for kind in (CP, Tucker2, TensorTrain):
        assert "solver" not in kind().options()
        named = decomposition_named(kind.name, **kind(solver="tensorly").options())
        assert named.options() == {**kind().options(), "solver": "tensorly"}


@cells(
    ("call", "message"),
    [
        (lambda: CP(solver="tensorlab"), "solver='tensorlab' is not known: ours or tensorly"),
        (lambda: CP(solver="tensorly", ridge=1e-3), "solver=tensorly has no ridge of ours: leave it out"),
        (lambda: CP(solver="tensorly", restarts=2, init="random"), "has no init, restarts of ours: leave them out"),
        (lambda: Tucker2(solver="tensorly", tolerance=0.1), "has no tolerance of ours"),
        (lambda: Tucker2(solver="tensorly", iterations=0), r"has no iterations=0 \(HOSVD\) of ours"),
        (lambda: TensorTrain("theirs"), "solver='theirs' is not known"),
    ],
)
def test_what_a_solver_has_not_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_equations_that_have_no_solution_are_told():
    dense = layer()
    with torch.no_grad():
        dense.weight.zero_()
    with pytest.raises(ValueError, match=r"TensorLy.* take solver=ours"):
        CP(solver="tensorly").factorize(dense, 4)
    assert math.isclose(float(CP().factorize(dense, 4)[0].weight.detach().norm()), 0.0)
