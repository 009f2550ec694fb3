"""Means and standard deviations against the standard library and NumPy."""

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.quantities import derived, measured
from lowrank_exp.report.table import MIXED, notes, table

DENSE = (0.914, 0.911, 0.9155)
ACCURACY = (0.903, 0.9071, 0.8998)


def three(job: Callable, **changes: object) -> list:
    return [job(seed=s, dense=DENSE[s], accuracy=ACCURACY[s], **changes) for s in range(3)]


def test_mean_and_spread_over_seeds(job: Callable) -> None:
    frame = table(configurations(three(job, ratio=0.4)))
    row = frame.iloc[0]
    assert (len(frame), row["n"], row["seeds"]) == (1, 3, "0 1 2")
    assert row["accuracy_mean"] == pytest.approx(statistics.mean(ACCURACY), abs=1e-12)
    assert row["accuracy_std"] == pytest.approx(statistics.stdev(ACCURACY), abs=1e-12)
    change = np.subtract(ACCURACY, DENSE)
    assert row["accuracy_change_mean"] == pytest.approx(change.mean(), abs=1e-12)
    assert row["accuracy_change_std"] == pytest.approx(change.std(ddof=1), abs=1e-12)
    assert row["accuracy.dense_mean"] == pytest.approx(statistics.mean(DENSE), abs=1e-12)
    assert row["macs_mean"] == pytest.approx(4e5, abs=1e-6)
    assert row["weights_ratio_mean"] == pytest.approx(0.4, abs=1e-12)
    assert row["parameters_mean"] == pytest.approx(1e5, abs=1e-6)
    assert row["latency_ms_ratio_mean"] == pytest.approx(0.75, abs=1e-12)
    assert row["seconds_mean"] == pytest.approx(15.0, abs=1e-12)


def test_one_seed_has_no_spread(job: Callable) -> None:
    row = table(configurations([job()])).iloc[0]
    assert row["accuracy_mean"] == pytest.approx(0.875, abs=1e-12)
    assert math.isnan(row["accuracy_std"])


def test_a_number_that_one_seed_lacks_is_left_empty(job: Callable) -> None:
    row = table(configurations([job(seed=0), job(seed=1, accuracy=None)])).iloc[0]
    assert math.isnan(row["accuracy_mean"])
    assert row["accuracy_dense_mean"] == pytest.approx(0.9, abs=1e-12)


def test_another_phase_can_be_reported(job: Callable) -> None:
    row = table(configurations(three(job)), "dense").iloc[0]
    assert row["accuracy_mean"] == pytest.approx(statistics.mean(DENSE), abs=1e-12)
    assert row["accuracy_change_mean"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="no job has a phase named 'prune'; there are dense, finetune"):
        table(configurations([job()]), "prune")


def test_failed_seeds_do_not_enter_the_mean(job: Callable) -> None:
    jobs = [
        job(seed=0),
        job(seed=1, status="failed", error="Traceback\n  line\nValueError: rank 0 of conv1\n"),
    ]
    rows = configurations(jobs)
    row = table(rows).iloc[0]
    assert (row["status"], row["n"], row["seeds"], row["failed_seeds"]) == ("failed", 1, "0", "1")
    assert row["accuracy_mean"] == pytest.approx(0.875, abs=1e-12)
    assert row["error"] == "seed 1: ValueError: rank 0 of conv1"
    assert notes(rows) == ["failed: decompose, seed 1: ValueError: rank 0 of conv1"]


def test_a_row_whose_seeds_all_failed_is_empty(job: Callable) -> None:
    row = table(configurations([job(), job(epochs=2, status="failed")])).iloc[1]
    assert (row["status"], row["n"], row["error"]) == ("failed", 0, "seed 0: no error was recorded")
    assert math.isnan(row["accuracy_mean"])


def test_times_from_different_places_are_not_averaged(job: Callable) -> None:
    rows = configurations([job(seed=0), job(seed=1, environment={"threads": 8})])
    row = table(rows).iloc[0]
    assert math.isnan(row["latency_ms_mean"])
    assert math.isnan(row["seconds_mean"])
    assert row["accuracy_mean"] == pytest.approx(0.875, abs=1e-12)
    assert row["threads"] == "2 8"
    assert notes(rows) == [f"decompose: {MIXED}"]


def test_ratios_reductions_and_speedups_agree(job: Callable) -> None:
    values = measured(job(ratio=0.25))
    assert values["macs_reduction"] == pytest.approx(0.75, abs=1e-12)
    assert values["macs_speedup"] == pytest.approx(4, abs=1e-12)
    assert values["error"] == pytest.approx(0.125, abs=1e-12)
    for name in ("reduction", "speedup"):
        known = derived({f"macs_{name}": values[f"macs_{name}"]})
        assert known["macs_ratio"] == pytest.approx(0.25, abs=1e-12)
    assert derived({"macs": 1.0, "macs_dense": 4.0})["macs_ratio"] == pytest.approx(0.25, abs=1e-12)
    assert derived({"error": 0.1})["accuracy"] == pytest.approx(0.9, abs=1e-12)


def test_warnings_stand_in_the_table_and_in_the_notes(job: Callable) -> None:
    jobs = [job(seed=0), job(seed=1, warnings=("at chance",)), job(seed=2, status="missed", warnings=("0.9 of 0.5",))]
    rows = configurations(jobs)
    row = table(rows).iloc[0]
    assert (row["status"], row["n"], row["missed_seeds"]) == ("missed", 3, "2")
    assert row["warnings"] == "seed 1: finetune: at chance; seed 2: finetune: 0.9 of 0.5"
    assert notes(rows) == [
        "warning: decompose, seed 1: finetune: at chance",
        "missed: decompose, seed 2: finetune: 0.9 of 0.5",
    ]
    assert table(configurations(jobs[:1])).iloc[0]["warnings"] == ""
