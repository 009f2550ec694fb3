"""What tables of benchmarks compute from times, by hand."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def tables():
    path = Path(__file__).parents[1] / "benchmarks" / "speed_tables.py"
    spec = importlib.util.spec_from_file_location("speed_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
