"""Columns of a paper that count some layers only, or one phase."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lowrank_exp.files.results import LayerResult
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.published import compared, find_table, published
from lowrank_exp.report.quantities import measured_over
from lowrank_exp.report.table import table

LAYERS = [
    LayerResult("conv1", None, None, 300, 300, 30, 30),
    LayerResult("conv2", "spatial_svd", 4, 700, 200, 70, 10),
    LayerResult("fc", "linear_svd", 2, 50, 25, 500, 100),
]
CONV, NAME = "re:conv.*", " over re:conv.*"


@pytest.fixture
def paper(conf: Path) -> Path:
    path = conf / "table" / "table1.yaml"
    path.write_text(
        "title: Table 1\nsource: {paper: A. Author 2021}\ncolumns:\n"
        "  conv FLOPs: {quantity: macs_ratio, unit: '%', layers: 're:conv.*'}\n"
        "  conv2 weights: {quantity: weights, unit: thousand, layers: conv2}\n"
        "  all FLOPs: {quantity: macs_ratio, unit: '%'}\n"
        "  w/o FT: {quantity: accuracy.dense, unit: '%'}\n"
        "  search: {quantity: seconds.finetune, unit: s}\n"
        "seeds: [0, 1]\nrows:\n  svd_energy: {}\n"
        "  svd: {published: {conv FLOPs: 49, conv2 weights: 0.02, all FLOPs: 60, w/o FT: 88, search: 7}}\n"
    )
    return path


def test_sums_over_the_layers_that_a_pattern_names(job: Callable) -> None:
    found = measured_over(replace(job(), layers=LAYERS), CONV)
    assert found == {
        f"macs{NAME}": 500,
        f"macs_dense{NAME}": 1000,
        f"macs_ratio{NAME}": 0.5,
        f"macs_reduction{NAME}": 0.5,
        f"macs_speedup{NAME}": 2.0,
        f"weights{NAME}": 40,
        f"weights_dense{NAME}": 100,
        f"weights_ratio{NAME}": 0.4,
        f"weights_reduction{NAME}": pytest.approx(0.6, abs=1e-12),
        f"weights_speedup{NAME}": pytest.approx(2.5, abs=1e-12),
    }
    assert measured_over(replace(job(), layers=LAYERS), "conv2")["macs over conv2"] == 200


@pytest.mark.parametrize(
    ("layers", "pattern", "phase"),
    [(LAYERS, "re:con", None), (LAYERS, "conv3", None), ([], CONV, None), (LAYERS, CONV, "dense")],
    ids=["no whole name", "no such layer", "no layers", "a phase before the last"],
)
def test_nothing_to_count_is_no_number(job: Callable, layers: list, pattern: str, phase: str | None) -> None:
    found = measured_over(replace(job(), layers=layers), pattern, phase)
    assert all(math.isnan(value) for value in found.values())


def test_a_layer_without_costs_makes_no_sum(job: Callable) -> None:
    layers = [*LAYERS, LayerResult("conv3")]
    assert math.isnan(measured_over(replace(job(), layers=layers), CONV)[f"macs{NAME}"])
    assert measured_over(replace(job(), layers=layers), "re:fc")["macs over re:fc"] == 25


def test_beside_the_paper(paper: Path, conf: Path, job: Callable) -> None:
    jobs = [replace(job(row="svd", experiment="table1", seed=s, ratio=0.6), layers=LAYERS) for s in (0, 1)]
    read = published(find_table("table1", [conf]))
    names = [column.ours for column in read.columns.values()]
    frame = table(configurations(jobs), more=names, layers=[CONV, "conv2"])
    lines = compared(read, frame)
    assert lines["column"].tolist() == ["conv FLOPs", "conv2 weights", "all FLOPs", "w/o FT", "search"]
    assert lines["ours"].tolist() == pytest.approx([50.0, 0.01, 60.0, 90.0, 5.0], abs=1e-9)
    assert lines["difference"].tolist() == pytest.approx([1.0, -0.01, 0.0, 2.0, -2.0], abs=1e-9)
    assert read.of_row("svd")[f"macs_ratio{NAME}"] == pytest.approx(0.49, abs=1e-12)


def test_the_command_prints_them(paper: Path, conf: Path, runs: Callable, job: Callable, capsys) -> None:
    jobs = [replace(job(row="svd", experiment="table1", seed=s, ratio=0.6), layers=LAYERS) for s in (0, 1)]
    assert main([str(runs(*jobs))], conf=conf) == 1  # svd_energy is missing
    said = capsys.readouterr().out
    assert "conv FLOPs" in said
    assert "50.00" in said
    assert "+1.00" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "layers: conv2",
            "layers: [conv2]",
            r"conv2 weights\.layers=\['conv2'\] is refused: allowed is a text",
        ),
        ("'re:conv.*'", "'re:conv('", "columns.conv FLOPs: layers: .* is not a regular expression"),
        (
            "seconds.finetune, unit: s",
            "seconds, unit: s, layers: conv2",
            "columns.search: layers is for macs, macs_dense",
        ),
        ("accuracy.dense", "macs.dense", "'macs.dense' is none of accuracy.*nor accuracy.PHASE"),
        (
            "unit: '%', layers",
            "unit: '%', layer",
            r"Did you mean columns\.conv FLOPs\.layers\?",
        ),
    ],
)
def test_mistakes_are_named(paper: Path, old: str, new: str, message: str) -> None:
    text = paper.read_text()
    assert old in text
    paper.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        published(find_table(str(paper), []))
