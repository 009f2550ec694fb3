"""A result in tables: what budgets are of is what layers are counted in; how much faster, where that can be said."""

import pytest

from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.job.ends import tell_result
from lowrank_exp.job.result_tables import layer_table, phase_table

EAGER = {"name": "eager", "threads": 1}
AT_ONE = [{"batch_size": 1}]
LONG = "backbone.encoder.stages_of_the_network.bottleneck_projection.convolution"


def result(config: dict, small: dict | None = None) -> Result:
    dense = PhaseResult("train", 0.9, 0.91, macs=1000, weights=50, parameters=60, bytes=4000, seconds=3.0, stored=True)
    last = PhaseResult("finetune", 0.875, 0.88, macs=250, weights=20, parameters=30, bytes=1500, seconds=1.0)
    timed = {"latency": AT_ONE, "runtime": EAGER}
    dense = PhaseResult(**{**vars(dense), **timed, "latency_ms": 2.0})
    last = PhaseResult(**{**vars(last), **timed, "latency_ms": 0.5, **(small or {})})
    layers = [
        LayerResult(LONG, "spatial_svd", 3, 900, 150, 40, 10, reason="chosen", weight_error=0.25, response_error=0.5),
        LayerResult("fc", None, None, 100, 100, 10, 10, reason="left alone by a rule", bytes_before=40, bytes_after=40),
    ]
    return Result("ok", "0" * 16, None, None, 0, "decompose", config, [dense, last], layers, dense=dense)


def cells(lines: list[str], name: str) -> dict[str, str]:
    """Of the row of that name, by column; for tables without empty cells and columns of several words."""
    heads, row = lines[0].split("  "), next(line for line in lines if line.startswith(name))
    return dict(
        zip(
            [one.strip() for one in heads if one.strip()],
            [one.strip() for one in row.split("  ") if one.strip()],
            strict=True,
        )
    )


def test_the_speed_up_is_beside_the_time_and_a_stored_phase_says_so():
    lines = phase_table(result({}), 110)
    assert cells(lines, "train")["speed-up"] == "1.00 x"
    assert cells(lines, "train")["seconds"] == "from the store"
    last = cells(lines, "finetune")
    assert (last["ms"], last["speed-up"], last["kB"], last["seconds"]) == ("0.500", "4.00 x", "1.5", "1.0")


@pytest.mark.parametrize(
    "small", [{"runtime": {"name": "onnxruntime"}}, {"latency": [{"batch_size": 8}]}, {"latency_ms": None}]
)
def test_times_that_are_not_alike_have_no_speed_up(small):
    assert "speed-up" not in phase_table(result({}, small), 110)[0]


def test_layers_are_counted_in_what_the_budget_is_of():
    assert "MACs before" in layer_table(result({}), 160)[0]
    assert "weights before" in layer_table(result({"rank": {"weights": 0.5}}), 160)[0]
    lines = layer_table(result({"rank": {"bytes": 0.5, "macs": None}}), 160)
    assert (cells(lines, "fc")["bytes before"], cells(lines, "fc")["bytes after"]) == ("40", "40")
    assert "MACs" not in lines[0]
    both = layer_table(result({"rank": {"bytes": 0.5, "macs": 0.5}}), 160)[0]
    assert "MACs before" in both
    assert "bytes before" in both


@pytest.mark.parametrize("width", [60, 80, 110])
def test_tables_fit_and_names_are_whole_or_broken_after_a_dot(width):
    of = result({"rank": {"macs": 0.5}})
    for lines in (phase_table(of, width), layer_table(of, width)):
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        for left_out in ("no room here, but in result.json: ",):
            assert text.count(left_out) <= 1
    text = "\n".join(layer_table(of, width))
    assert all(f"{part}." in text for part in LONG.split(".")[:-1])
    assert "left alone by a rule" in " ".join(text.split())


def test_a_line_says_what_the_budgets_are_of():
    assert tell_result(result({})) == "test 87.50 %, dense 90.00 %; 250 MACs, 25.00 %"
    assert tell_result(result({"rank": {"bytes": 0.4}})) == "test 87.50 %, dense 90.00 %; 1,500 bytes, 37.50 %"
    timed = result({"rank": {"latency": 0.5}, "pruning": {"macs": 0.3}})
    assert tell_result(timed) == "test 87.50 %, dense 90.00 %; 250 MACs, 25.00 %; 0.500 ms, 25.00 %"
