"""What tables of benchmarks compute from times, by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def benchmark(name):
    """A script of `benchmarks/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tables():
    return benchmark("speed_tables")


def cell(entry, ratio, error, **more):
    about = {"network": "a", "runtime": "eager", "batch_size": 1, "entry": entry, "case": f"{entry} a eager batch 1"}
    return about | {"ratio": ratio, "ratio_of_minima": ratio, "error_ours": error, "macs": 0.5, **more}


def test_plans_by_macs_are_interpolated_at_the_error_of_a_plan_by_time(tables):
    svd = [cell("spatial_svd 0.5", 1 / 0.8, 2.0), cell("spatial_svd 0.25", 1 / 0.6, 4.0)]
    joined = [cell("joined 0.5", 1 / 0.9, 3.0)]
    ours = cell("time 0.5", 2.0, 3.0, predicted_share=0.4, ours=0.011, predicted=0.01)
    # Of spatial SVD 0.7 of the dense time would lose 3, of all joined 0.9: the faster one counts.
    assert tables.equal_error_ratios([*svd, *joined, ours]) == [(ours, pytest.approx(0.7 * 2.0))]
    assert tables.equal_error_ratios([*joined, ours]) == [(ours, pytest.approx(0.9 * 2.0))]
    assert tables.equal_error_ratios([*svd, *joined, ours | {"error_ours": 5.0}]) == []
    assert tables.equal_error_ratios([ours, *(one | {"runtime": "other"} for one in svd)]) == []
    assert tables.off_in_ms(ours) == pytest.approx(0.1)
    assert tables.off_in_share(ours) == pytest.approx(0.25)


def test_the_picture_of_the_readme_shows_the_tables_as_they_are():
    front = benchmark("front_figure")
    shown = [point for point in front.read_points(front.TABLES.read_text()) if point.depth == front.DEPTH]
    assert {(point.batch, point.method) for point in shown} == {
        (batch, method) for batch in (1, 128) for method in ("dense", *front.LOOKS)
    }
    assert Image.open(front.PICTURE).info["Description"] == front.digest(shown), (
        "run: python benchmarks/front_figure.py"
    )
    assert f"]({front.PICTURE.relative_to(ROOT)})" in (ROOT / "README.md").read_text()


def test_the_front_figure_draws_every_point_of_a_table():
    front = benchmark("front_figure")
    head = "| method | budget | MACs | speed-up | test |\n| --- | --- | --- | --- | --- |\n"
    rows = (
        "| dense | 1.0 | 1 | 1.00 | 90.5 |\n| time | 0.5 | 0.4 | 1.98 | 89.25 |\n| time | 0.8 | 0.7 | 1.26 | 90.0 |\n"
    )
    points = front.read_points(
        f"# Page\n\n### ResNet-8, batch 4\n\n{head}{rows}\ntext\n\n### ResNet-8, two epochs\n\n{head}"
    )
    assert [(p.depth, p.batch, p.method, p.speed_up, p.test) for p in points] == [
        (8, 4, "dense", 1.0, 90.5),
        (8, 4, "time", 1.98, 89.25),
        (8, 4, "time", 1.26, 90.0),
    ]
    (axes,) = front.draw(points).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["dense"] == [[1.0, 90.5]]
    assert lines[front.LOOKS["time"][0]] == [[1.26, 90.0], [1.98, 89.25]]
    assert lines[front.LOOKS["macs"][0]] == []
