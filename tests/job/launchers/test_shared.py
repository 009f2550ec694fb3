"""Phases that several jobs of a sweep share."""

from lowrank_exp.job.launchers.shared import shared_phases
from support.composed import composed


def test_jobs_that_differ_in_a_later_phase_share_the_ones_before_it():
    overrides = (
        ["seed=0", "rank.macs=0.3"],
        ["seed=0", "rank.macs=0.6"],
        ["seed=1", "rank.macs=0.3"],
        ["seed=0", "rank.macs=0.6", "finetune.epochs=7"],
        ["seed=2", "method=train"],
        ["seed=3", "rank=energy", "export=onnx"],
        ["seed=3", "rank=energy", "training.epochs=7"],
    )
    jobs = [composed(*one) for one in overrides]
    assert shared_phases(jobs) == [([0, 1, 3], "train")]
    assert shared_phases([jobs[1], jobs[3]]) == [([0, 1], "recalibrate")]  # all but what is fine-tuned
    assert shared_phases([jobs[0], jobs[2]]) == []


def test_whole_jobs_that_are_the_same_share_all_and_method_train_shares_with_rows_of_its_network():
    rows = [composed("seed=2", "method=train"), composed("seed=2"), composed("seed=2", "latency.seconds=1")]
    (order,) = {tuple(cfg.method.order) for cfg in rows[1:]}
    assert shared_phases(rows) == [([0, 1, 2], "train")]
    assert shared_phases(rows[1:]) == [([0, 1], order[-1])]
