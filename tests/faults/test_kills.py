"""A job that is killed again and again where it names or syncs a file ends with the bits of one that was left alone."""

import random
from pathlib import Path

import pytest

from support.fault_jobs import TINY, figures, into, leftovers
from support.forked import forked, lowrank_exp

KILLS = 5  # of every job
METHODS = {
    "decompose": ("rank=uniform",),
    "svd_training": (),
    "trp": (),
    "lc": ("method.phases.lc.steps=2",),
    "cuttlefish": (),
    "sfp": (),
    "prune_decompose": (),
    "rewind": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_job_that_is_killed_again_and_again_ends_with_equal_bits(tmp_path: Path, method: str) -> None:
    job = (*TINY, f"method={method}", *METHODS[method])
    alone = forked(lowrank_exp, *job, into(tmp_path / "alone"))
    assert alone.status == 0, alone.said
    points = sorted(random.Random(method).sample(range(1, alone.calls + 1), KILLS))
    disturbed = tmp_path / "disturbed"
    for before, point in zip([0, *points], points, strict=False):  # what was done before is not done again
        killed = forked(lowrank_exp, *job, into(disturbed), dies_at=point - before)
        assert killed.status == -9, killed.said
        assert killed.calls == point - before
    last = forked(lowrank_exp, *job, into(disturbed))
    assert last.status == 0, last.said
    assert figures(disturbed) == figures(tmp_path / "alone")
    assert leftovers(disturbed) == []
