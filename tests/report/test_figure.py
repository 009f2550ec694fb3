"""The points, error bars and markers of the trade-off figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.figure import drawn, tradeoff
from lowrank_exp.report.published import find_table, published
from lowrank_exp.report.table import table


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_curve_per_policy_with_error_bars(job: Callable) -> None:
    values = {0.5: (0.90, 0.92), 0.3: (0.80, 0.84)}
    jobs = [job(seed=s, ratio=r, dense=0.93, accuracy=a[s]) for r, a in values.items() for s in (0, 1)]
    jobs += [job(seed=s, policy="energy", ratio=0.4, dense=0.93, accuracy=0.88) for s in (0, 1)]
    axes = tradeoff(table(configurations(jobs))).axes[0]
    assert labels(axes) == ["uniform", "energy", "dense"]
    curve, _, (bars,) = axes.containers[0]
    np.testing.assert_allclose(curve.get_xdata(orig=False), [0.3, 0.5], atol=1e-12)
    np.testing.assert_allclose(curve.get_ydata(orig=False), [82, 91], atol=1e-9)
    half = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(half, [100 * np.std(values[r], ddof=1) for r in (0.3, 0.5)], atol=1e-9)
    star = next(line for line in axes.lines if line.get_marker() == "*")
    np.testing.assert_allclose([star.get_xdata(orig=False)[0], star.get_ydata(orig=False)[0]], [1, 93], atol=1e-9)


def test_published_points_are_hollow_and_stay_without_a_result(conf: Path, job: Callable) -> None:
    jobs = [job(row="svd", experiment="table1", ratio=0.6, accuracy=0.905, dense=0.91)]
    axes = tradeoff(table(configurations(jobs)), published(find_table("table1", [conf]))).axes[0]
    assert labels(axes) == ["decompose, channel_svd, uniform", "published", "dense, published", "dense"]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata(orig=False))]
    found = sorted(
        (round(line.get_xdata(orig=False)[0], 4), round(line.get_ydata(orig=False)[0], 4)) for line in hollow
    )
    assert found == [(0.5092, 91.18), (0.6105, 91.1), (1, 91.39)]
    ours = axes.containers[0][0]
    same = next(line for line in hollow if abs(line.get_xdata(orig=False)[0] - 0.6105) < 1e-9)
    assert to_rgba(same.get_color()) == to_rgba(ours.get_color())
    assert sorted(text.get_text() for text in axes.texts) == ["svd", "svd_energy"]


def test_nothing_to_draw(job: Callable) -> None:
    assert tradeoff(table(configurations([job(accuracy=None)]))) is None


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_equal_results_give_equal_files(job: Callable, kind: str, start: bytes) -> None:
    frame = table(configurations([job()]))
    first = drawn(tradeoff(frame), kind)
    assert first.startswith(start)
    assert first == drawn(tradeoff(frame), kind)


def test_points_with_warnings_are_ringed(job: Callable) -> None:
    jobs = [job(ratio=0.5, accuracy=0.9), job(ratio=0.25, accuracy=0.1, warnings=("at chance",))]
    axes = tradeoff(table(configurations(jobs))).axes[0]
    (ring,) = [line for line in axes.lines if line.get_label() == "with warnings"]
    found = [ring.get_xdata(orig=False)[0], ring.get_ydata(orig=False)[0]]
    np.testing.assert_allclose(found, [0.25, 10], atol=1e-9)
    assert len(ring.get_xdata(orig=False)) == 1
    assert "with warnings" not in labels(tradeoff(table(configurations(jobs[:1]))).axes[0])
