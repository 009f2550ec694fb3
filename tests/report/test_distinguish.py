"""Differences and their standard errors against SciPy's tests; marks in every form of the report."""

import math
from collections.abc import Callable

import pandas as pd
import pytest
from scipy import stats

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.distinguish import CHANGE, OTHERS, alike, numbers, standard_error
from lowrank_exp.report.render import Section, formatted, latex, markdown
from lowrank_exp.report.table import table

FIRST, SECOND = (0.902, 0.911, 0.898), (0.880, 0.893, 0.871, 0.889, 0.9)


def spread(values: tuple[float, ...]) -> float:
    return float(pd.Series(values).std(ddof=1))


def test_the_standard_error_is_welchs() -> None:
    error = standard_error(spread(FIRST), len(FIRST), spread(SECOND), len(SECOND))
    difference = sum(FIRST) / 3 - sum(SECOND) / 5
    assert difference / error == pytest.approx(stats.ttest_ind(FIRST, SECOND, equal_var=False).statistic, rel=1e-9)
    paired = [one - other for one, other in zip(FIRST, SECOND, strict=False)]
    t = stats.ttest_rel(FIRST, SECOND[:3]).statistic
    assert sum(paired) / 3 / standard_error(spread(tuple(paired)), 3) == pytest.approx(t, rel=1e-9)


def test_two_standard_errors_are_the_bound() -> None:
    assert [alike(d, 0.5) for d in (1.0, -1.0, 1.0001, -1.0001, math.nan)] == [True, True, False, False, False]
    assert [alike(d, 0.0) for d in (0.0, 1e-15, 1e-6)] == [True, True, False]


def rows(job: Callable, **accuracies: tuple[float, ...]) -> pd.DataFrame:
    """A table of one experiment: a row per name, a seed per accuracy; the dense network has 0.9 with every seed."""
    jobs = [
        job(row=name, experiment="t", seed=seed, accuracy=accuracy, k=name)
        for name, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]
    return table(configurations(jobs))


def test_rows_name_those_that_they_are_not_told_from(job: Callable) -> None:
    frame = rows(job, a=(0.90, 0.91), b=(0.89, 0.91), c=(0.80, 0.81), d=(0.90,))
    assert frame[OTHERS].tolist() == ["b", "a", "none", "one seed"]
    assert frame[CHANGE].tolist() == ["no", "no", "yes", "one seed"]
    assert numbers(frame) == ["2", "1", "none", "one seed"]
    text = formatted(frame)
    assert text["no."].tolist() == ["1", "2", "3", "4"]
    assert text["≈"].tolist() == ["2", "1", "none", "one seed"]
    assert text["change"].tolist() == ["+0.50 ± 0.71 ≈", "+0.00 ± 1.41 ≈", "-9.50 ± 0.71", "+0.00"]


def test_rows_of_another_experiment_and_without_accuracy_do_not_count(job: Callable) -> None:
    jobs = [job(row="a", experiment=name, seed=seed, accuracy=0.9) for name in ("t", "u") for seed in (0, 1)]
    jobs += [job(row="b", experiment="t", seed=seed, accuracy=None) for seed in (0, 1)]
    frame = table(configurations(jobs))
    assert frame[OTHERS].tolist() == ["", "", ""]
    assert frame[CHANGE].tolist() == ["no", "no", ""]


def test_marks_stand_in_markdown_and_latex_with_what_they_mean(job: Callable) -> None:
    frame = rows(job, a=(0.90, 0.91), b=(0.89, 0.91))
    section = Section("t", frame, None, [], "Latency: somewhere.", [])
    shown = markdown([section])
    assert "+0.50 ± 0.71 ≈" in shown
    assert "two standard errors at most" in shown
    shown = latex([section])
    assert r"$+$" not in shown
    assert r"+0.50 $\pm$ 0.71 $\approx$ & 2 &" in shown
    assert r"no. & configuration & n" in shown
    assert "{rl" in shown
    single = Section("t", rows(job, a=(0.9,), b=(0.8,)), None, [], "Latency: somewhere.", [])
    shown = markdown([single])
    assert "Every row has one seed: no difference between accuracies can be tested." in shown
    assert "≈" not in shown
    assert "no." not in formatted(single.frame)
