"""Published values beside ours."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.published import compared, find_table, published, tables_of
from lowrank_exp.report.table import table


def test_differences_in_the_papers_units(conf: Path, job: Callable) -> None:
    paper = published(find_table("table1", [conf]))
    jobs = [
        job(row="svd", experiment="table1", seed=s, dense=0.91, accuracy=a, ratio=0.6)
        for s, a in enumerate((0.90, 0.92))
    ]
    jobs += [job(row="svd", experiment="other", accuracy=0.1)]
    lines = compared(paper, table(configurations(jobs), more=["macs_reduction"]))
    assert lines["column"].tolist() == ["base", "delta", "CR-F", "MFLOPs"]
    assert lines["ours"].tolist() == pytest.approx([91.0, 0.0, 40.0, 1.2], abs=1e-9)
    assert lines["paper"].tolist() == [91.39, -0.29, 38.95, 1.5]
    assert lines["difference"].tolist() == pytest.approx([-0.39, 0.29, 1.05, -0.3], abs=1e-9)
    assert lines["std"][1] == pytest.approx(math.sqrt(2), abs=1e-9)


def test_published_is_in_the_units_of_files(conf: Path) -> None:
    paper = published(find_table("table1", [conf]))
    assert paper.of_row("svd") == pytest.approx(
        {"accuracy_dense": 0.9139, "accuracy_change": -0.0029, "macs_reduction": 0.3895, "macs": 7.5e5},
        abs=1e-9,
    )
    assert set(paper.of_row("svd_energy")) == {"accuracy_dense", "accuracy_change", "macs_reduction"}
    assert paper.of_row("tucker") == {}


def test_alds_table_1_as_printed() -> None:
    paper = published(find_table("alds_resnet20", [CONF]))
    assert paper.rows == {
        "svd": {"base": 91.39, "delta": -0.29, "CR-P": 39.81, "CR-F": 38.95},
        "svd_energy": {"base": 91.39, "delta": -0.21, "CR-P": 49.88, "CR-F": 49.08},
    }
    assert paper.of_row("svd")["parameters_reduction"] == pytest.approx(0.3981, abs=1e-12)
    assert [found.name for found in tables_of(["alds_resnet20", None, "runs"], [CONF])] == ["alds_resnet20"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quantity: macs,", "quantity: flops,", "columns.MFLOPs: quantity 'flops' is none of accuracy"),
        ("unit: points", "unit: percent", "columns.delta: unit 'percent' is none of %"),
        ("unit: points}", "units: points}", "columns.delta.units is read by nobody. Did you mean columns.delta.unit"),
        ("quantity: macs, unit: million", "quantity: macs_ratio, unit: times", "columns.MFLOPs: flops_per_mac is for"),
    ],
)
def test_mistakes_in_columns_are_named(conf: Path, old: str, new: str, message: str) -> None:
    path = conf / "table" / "table1.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        published(find_table("table1", [conf]))


def test_an_unknown_table_names_the_known_ones(conf: Path) -> None:
    with pytest.raises(ValueError, match=r"no table and no file is named 'x'; .* table1"):
        find_table("x", [conf])
    assert find_table(str(conf / "table" / "table1.yaml"), []).name == "table1"
