"""Jobs side by side, one of which ends the process that runs it."""

import logging
from concurrent.futures.process import BrokenProcessPool

import pytest
from hydra.core.utils import JobReturn, JobStatus

from lowrank_exp.job.ends import tell_ends
from lowrank_exp.job.turns import run_side_by_side

JOBS = [["seed=0"], ["seed=1"], ["seed=2"]]


@pytest.mark.parametrize("deadly", [None, 0, 1, 2])
def test_a_job_that_ends_its_process_is_one_failed_job(deadly, caplog):
    launched = []

    def launch(jobs, first):
        launched.append((list(jobs), first))
        if deadly is not None and JOBS[deadly] in jobs:
            raise BrokenProcessPool("gone")
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in jobs]

    with caplog.at_level(logging.INFO):
        ends = run_side_by_side(launch, JOBS, 5)
    lines = tell_ends(JOBS, 5, ends)
    if deadly is None:
        assert launched == [(JOBS, 5)]
        assert lines[-1] == "3 of 3 jobs ended well"
        return
    assert launched == [(JOBS, 5), *(([job], 5 + number) for number, job in enumerate(JOBS))]
    assert "now one job at a time" in caplog.text
    assert lines[-1] == "2 of 3 jobs ended well"
    (failed, _) = lines
    assert failed.startswith(f"#{5 + deadly} seed={deadly}: ")
    assert "ended from outside" in failed or "gone" in failed
    with pytest.raises(BrokenProcessPool):
        _ = ends[deadly].return_value
