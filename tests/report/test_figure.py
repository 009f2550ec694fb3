"""The points, error bars and markers of the trade-off figure."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.figure import drawing, drawn
from lowrank_exp.report.published import find_table, published
from lowrank_exp.report.table import table


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_figure().legends[0].get_texts()]


def names(axes: Axes) -> list[str]:
    return sorted(text.get_text() for text in axes.texts)


def extents(figure: Figure) -> list[Bbox]:
    """What the names beside points cover as drawn, in pixels."""
    figure.draw_without_rendering()
    return [
        text.get_window_extent() if text.arrow_patch is None else Text.get_window_extent(text)
        for text in figure.axes[0].texts
    ]


def test_a_curve_per_policy_with_error_bars(job: Callable) -> None:
    values = {0.5: (0.90, 0.92), 0.3: (0.80, 0.84)}
    jobs = [job(seed=s, ratio=r, dense=0.93, accuracy=a[s]) for r, a in values.items() for s in (0, 1)]
    jobs += [job(seed=s, policy="energy", ratio=0.4, dense=0.93, accuracy=0.88) for s in (0, 1)]
    axes = drawing(table(configurations(jobs))).axes[0]
    assert labels(axes) == ["decompose, channel_svd, uniform", "decompose, channel_svd, energy", "dense"]
    curve, _, (bars,) = axes.containers[0]
    np.testing.assert_allclose(curve.get_xdata(orig=False), [0.3, 0.5], atol=1e-12)
    np.testing.assert_allclose(curve.get_ydata(orig=False), [82, 91], atol=1e-9)
    half = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(half, [100 * np.std(values[r], ddof=1) for r in (0.3, 0.5)], atol=1e-9)
    star = next(line for line in axes.lines if line.get_marker() == "*")
    np.testing.assert_allclose([star.get_xdata(orig=False)[0], star.get_ydata(orig=False)[0]], [1, 93], atol=1e-9)


def test_published_points_are_hollow_and_stay_without_a_result(conf: Path, job: Callable) -> None:
    jobs = [job(row="svd", experiment="table1", ratio=0.6, accuracy=0.905, dense=0.91)]
    frame = table(configurations(jobs)).assign(network="resnet20", data="cifar10")
    axes = drawing(frame, published(find_table("table1", [conf])), "table 1").axes[0]
    assert labels(axes) == ["decompose, channel_svd", "published", "dense, published", "dense"]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata(orig=False))]
    found = sorted(
        (round(line.get_xdata(orig=False)[0], 4), round(line.get_ydata(orig=False)[0], 4)) for line in hollow
    )
    assert found == [(0.5092, 91.18), (0.6105, 91.1), (1, 91.39)]
    ours = axes.containers[0][0]
    same = next(line for line in hollow if abs(line.get_xdata(orig=False)[0] - 0.6105) < 1e-9)
    assert to_rgba(same.get_color()) == to_rgba(ours.get_color())
    assert names(axes) == ["svd", "svd_energy"]
    assert axes.get_title() == "table 1: resnet20 on cifar10"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("MACs that remain, fraction of the dense network", "accuracy, %")


def test_nothing_to_draw(job: Callable) -> None:
    assert drawing(table(configurations([job(accuracy=None)]))) is None


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_equal_results_give_equal_files(job: Callable, kind: str, start: bytes) -> None:
    frame = table(configurations([job()]))
    first = drawn(drawing(frame), kind)
    assert first.startswith(start)
    assert first == drawn(drawing(frame), kind)


def test_points_with_warnings_are_ringed(job: Callable) -> None:
    jobs = [job(ratio=0.5, accuracy=0.9), job(ratio=0.25, accuracy=0.1, warnings=("at chance",))]
    axes = drawing(table(configurations(jobs))).axes[0]
    (ring,) = [line for line in axes.lines if line.get_label() == "with warnings"]
    found = [ring.get_xdata(orig=False)[0], ring.get_ydata(orig=False)[0]]
    np.testing.assert_allclose(found, [0.25, 10], atol=1e-9)
    assert len(ring.get_xdata(orig=False)) == 1
    assert "with warnings" not in labels(drawing(table(configurations(jobs[:1]))).axes[0])


def test_names_cover_neither_each_other_nor_a_marker(job: Callable) -> None:
    """Twelve rows in two heaps, one at the right edge: the extents of their names as drawn."""
    jobs = [
        job(
            row=f"a row of a long name {k}",
            policy=f"p{k % 3}",
            ratio=0.5 * (k % 2) + 0.45 + 0.001 * k,
            accuracy=0.8 + 0.002 * k,
            k=k,
        )
        for k in range(12)
    ]
    figure = drawing(table(configurations(jobs)))
    axes, boxes = figure.axes[0], extents(figure)
    assert names(axes) == sorted(f"a row of a long name {k}" for k in range(12))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    points = axes.transData.transform(
        np.concatenate([line.get_xydata() for line in axes.lines if line.get_marker() != "None"])
    )
    assert not [1 for box in boxes for point in points if box.contains(*point)]
    legend = figure.legends[0].get_window_extent()
    assert not legend.overlaps(frame)


def test_names_for_which_there_is_no_room_are_counted(job: Callable) -> None:
    jobs = [job(row=f"row {'x' * 50} {k}", ratio=0.4 + 0.002 * k, accuracy=0.8, k=k) for k in range(90)]
    figure = drawing(table(configurations(jobs)))
    left = 90 - len(figure.axes[0].texts)
    assert 0 < left < 90
    figure.draw_without_rendering()
    below = figure.axes[0].xaxis.label.get_window_extent()
    assert not below.overlaps(figure.legends[0].get_window_extent())
    assert figure.axes[0].get_xlabel().endswith(f"(names for which there is no room, see the table: {left})")
    assert not [1 for one, other in itertools.combinations(extents(figure), 2) if one.overlaps(other)]


def test_a_curve_holds_what_differs_in_its_budget_alone(job: Callable) -> None:
    """Colours are decompositions, markers what else differs where all decompositions have it; no curve mixes rows."""
    jobs = [
        job(
            row=f"{name}_{fit}",
            ratio=ratio,
            accuracy=0.6 + 0.1 * ratio,
            choices={"method": "oneshot", "decomposition": name, "rank": "knapsack", "reconstruct": fit},
            reconstruct={"_target_": fit},
        )
        for name in ("tucker2", "cp")
        for fit in ("none", "whitened")
        for ratio in (0.5, 0.3)
    ]
    axes = drawing(table(configurations(jobs))).axes[0]
    assert labels(axes) == ["oneshot, tucker2", "oneshot, cp", "reconstruct=none", "whitened", "dense"]
    curves = [container[0] for container in axes.containers]
    assert [len(curve.get_xdata()) for curve in curves] == [2] * 4
    assert [curve.get_color() for curve in curves] == ["#0072B2"] * 2 + ["#D55E00"] * 2
    assert [curve.get_marker() for curve in curves] == ["o", "s"] * 2
    assert names(axes) == []
    alone = drawing(table(configurations(jobs[:4])))
    assert labels(alone.axes[0]) == ["tucker2_none", "tucker2_whitened", "dense"]
    assert alone.legends[0].get_title().get_text() == "oneshot, tucker2"


def test_of_many_rows_that_cost_the_same_the_most_accurate_are_bars(job: Callable) -> None:
    jobs = [job(row=f"row{k:02}", ratio=0.5, accuracy=0.9 - k / 1000, dense=0.914) for k in range(63)]
    axes = drawing(table(configurations(jobs)), None, "wide").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"row{k:02}" for k in range(60)]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [90 - k / 10 for k in range(60)])
    assert axes.get_title().endswith("the 60 most accurate of 63 rows; 50.0 % of the dense network's MACs remain")


def test_rows_that_cost_the_same_are_bars(conf: Path, job: Callable) -> None:
    jobs = [
        job(
            row=row,
            experiment="table1",
            seed=seed,
            policy=policy,
            ratio=ratio,
            accuracy=accuracy + 0.01 * seed,
            dense=0.914,
        )
        for row, policy, ratio, accuracy in (("svd", "uniform", 0.5, 0.90), ("svd_energy", "energy", 0.504, 0.91))
        for seed in (0, 1)
    ]
    frame = table(configurations(jobs)).assign(network="resnet20", data="cifar10")
    figure = drawing(frame, published(find_table("table1", [conf])), "table1")
    axes = figure.axes[0]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(bars, [(0, 90.5), (1, 91.5)], atol=1e-9)
    assert labels(axes) == ["decompose, channel_svd, uniform", "decompose, channel_svd, energy", "dense", "published"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["svd", "svd_energy"]
    assert names(axes) == ["90.50 ± 0.71", "91.50 ± 0.71"]
    assert axes.get_title() == "table1: resnet20 on cifar10\n50.2 % of the dense network's MACs remain"
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xlim()[0]) == ("accuracy, %", "row", 0)
    star, circle = (next(line for line in axes.lines if line.get_marker() == marker) for marker in "*o")
    np.testing.assert_allclose(star.get_xydata(), [(91.4, 0), (91.4, 1)], atol=1e-9)
    np.testing.assert_allclose(circle.get_xydata(), [(91.1, 0), (91.18, 1)], atol=1e-9)
    other = drawing(table(configurations([job(ratio=0.5), job(ratio=0.506)])))
    assert not other.axes[0].patches
