"""The options of alternating least squares, wherever a decomposition takes them."""

import inspect
import re
from dataclasses import FrozenInstanceError, asdict

import pytest

from lowrank_exp.decomposition import CP, Biclustering, JaderbergScheme1
from lowrank_exp.decomposition.fitting.als_options import ALSOptions
from lowrank_exp.decomposition.fitting.cp_als import cp_als
from support.cells import cells


def test_defaults_are_those_of_the_fit():
    parameters = inspect.signature(cp_als).parameters
    assert asdict(ALSOptions()) == {name: parameters[name].default for name in asdict(ALSOptions())}
    assert parameters.keys() - asdict(ALSOptions()) == {"tensor", "rank", "batch_axes", "target_error"}


def test_options_of_a_file_are_those_of_the_constructor_in_its_order():
    for kind in (CP, JaderbergScheme1):
        parameters = inspect.signature(kind).parameters.items()
        defaults = {name: one.default for name, one in parameters if name != "solver"}  # told where it is not ours
        assert kind().options() == defaults
        assert set(kind().options()) == set(defaults)
    assert list(CP().options()) == [
        "spatial",
        "init",
        "ridge",
        "acceleration",
        "tolerance",
        "max_iterations",
        "max_seconds",
        "restarts",
        "seed",
        "stable",
    ]
    assert list(JaderbergScheme1().options()) == list(inspect.signature(JaderbergScheme1).parameters)


def test_biclustering_fits_with_its_sweeps_and_seed():
    assert Biclustering(iterations=7, seed=3, restarts=5).als == ALSOptions(tolerance=1e-5, max_iterations=7, seed=3)


@cells("kind", [CP, JaderbergScheme1, ALSOptions])
@cells(
    ("wrong", "told"),
    [
        ({"ridge": -1.0}, "-1.0, 0.5, 2, 9.0 and 3"),
        ({"tolerance": -0.1}, "1e-09, -0.1, 2, 9.0 and 3"),
        ({"restarts": -2}, "1e-09, 0.5, -2, 9.0 and 3"),
        ({"max_seconds": 0}, "1e-09, 0.5, 2, 0 and 3"),
        ({"max_iterations": 0}, "1e-09, 0.5, 2, 9.0 and 0"),
    ],
)
def test_a_number_out_of_range_is_told_with_all_others(kind, wrong, told):
    right = {"tolerance": 0.5, "restarts": 2, "max_seconds": 9.0, "max_iterations": 3}
    told = "ridge, tolerance and restarts must be 0 or more, max_seconds above 0, max_iterations 1 or more; got " + told
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        kind(**right | wrong)


def test_an_unknown_start_is_refused_first():
    message = "init must be one of auto, slices, pencil, hosvd, random, got 'svd'"
    for kind in (CP, ALSOptions):
        with pytest.raises(ValueError, match=f"^{message}$"):
            kind(init="svd", max_iterations=0)


def test_options_do_not_change():
    with pytest.raises(FrozenInstanceError):
        CP().als.seed = 1
