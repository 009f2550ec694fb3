"""What a phase that factorizes measures first, and the version that tells whose plans have changed for it."""

from functools import partial

import pytest

from lowrank_exp.phases import Factorize
from lowrank_exp.rank import allocate

SEVERAL = {"conv": ["spatial_svd", "cp"], "linear": "linear_svd"}
ONE = {"conv": "cp", "linear": "linear_svd"}
EXCEPTION = ONE | {"layers": {"conv1": ["cp", "tucker2"]}}


@pytest.mark.parametrize(
    ("decomposition", "options", "needs", "version"),
    [
        (SEVERAL, {"policy": "knapsack"}, {"errors"}, 2),
        (EXCEPTION, {"policy": "knapsack"}, {"errors"}, 2),
        (SEVERAL, {"policy": "knapsack", "metric": "sensitivity"}, {"sensitivity"}, 1),
        (SEVERAL, {"policy": "knapsack", "metric": "response"}, {"responses"}, 2),
        (SEVERAL, {"policy": "alds"}, set(), 1),
        (ONE, {"policy": "knapsack"}, set(), 1),
        (ONE, {"policy": "uniform"}, set(), 1),
    ],
)
def test_reached_errors_are_measured_where_a_knapsack_of_errors_compares_decompositions(
    decomposition, options, needs, version
):
    phase = Factorize(decomposition=decomposition, rank=partial(allocate, macs=0.5, **options))
    assert (phase.needs, phase.version) == (frozenset(needs), version)
    assert Factorize.version == 1


def test_the_version_tells_which_fits_have_changed():
    """Those of factors that are fitted one at a time; in closed form nothing is extrapolated."""
    closed = {"conv": "channel_svd", "linear": "linear_svd"}
    fits = {name: {"fit": name, "images": 10, "batch_size": 10} for name in ("whitened", "response")}
    versions = {
        (str(decomposition["conv"]), fit, policy): Factorize(
            decomposition=decomposition, rank=partial(allocate, macs=0.5, policy=policy), reconstruct=fits[fit]
        ).version
        for decomposition in (closed, ONE, SEVERAL)
        for fit in fits
        for policy in ("uniform", "knapsack")
    }
    changed = {key: version for key, version in versions.items() if version > 2}
    assert changed == {
        ("cp", "whitened", "uniform"): 3,
        ("cp", "whitened", "knapsack"): 3,
        (str(SEVERAL["conv"]), "whitened", "uniform"): 3,
        (str(SEVERAL["conv"]), "whitened", "knapsack"): 4,
    }
