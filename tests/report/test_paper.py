"""Published values beside ours."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.paper import compared, find_paper, papers_of, read_paper
from lowrank_exp.report.table import table


def test_differences_in_the_papers_units(conf: Path, job: Callable) -> None:
    paper = find_paper("table1_paper", conf)
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


def test_rows_without_a_result_are_missing(conf: Path, job: Callable) -> None:
    paper = find_paper("table1_paper", conf)
    rows = configurations([job(row="table1/svd", experiment="table1"), job(row="svd_energy", experiment="other")])
    assert [(row.label, row.missing, row.status) for row in paper.missing(rows)] == [
        ("svd_energy", ("any",), "missing")
    ]


def test_published_is_in_the_units_of_files(conf: Path) -> None:
    paper = find_paper("table1_paper", conf)
    assert paper.published("svd") == pytest.approx(
        {"accuracy_dense": 0.9139, "accuracy_change": -0.0029, "macs_reduction": 0.3895, "macs": 7.5e5},
        abs=1e-9,
    )
    assert set(paper.published("svd_energy")) == {"accuracy_dense", "accuracy_change", "macs_reduction"}
    assert paper.published("tucker") == {}


def test_alds_table_1_as_printed() -> None:
    paper = find_paper("alds_resnet20", CONF)
    assert paper.rows == {
        "svd": {"base": 91.39, "delta": -0.29, "CR-P": 39.81, "CR-F": 38.95},
        "svd_energy": {"base": 91.39, "delta": -0.21, "CR-P": 49.88, "CR-F": 49.08},
    }
    assert paper.published("svd")["parameters_reduction"] == pytest.approx(0.3981, abs=1e-12)
    assert [found.name for found in papers_of(["alds_resnet20", None], CONF)] == ["alds_resnet20"]


def test_every_shipped_paper_is_readable() -> None:
    for path in (CONF / "paper").glob("*.yaml"):
        paper = read_paper(path)
        assert paper.rows, path
        assert paper.columns, path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quantity: macs,", "quantity: flops,", "column MFLOPs: quantity 'flops' is none of accuracy"),
        ("unit: points", "unit: percent", "column delta: unit 'percent' is none of %"),
        ("unit: points}", "units: points}", "column delta needs quantity and unit"),
        ("MFLOPs: 1.5", "GFLOPs: 1.5", "row svd has GFLOPs, the columns are base, delta"),
        ("experiment: table1", "experiments: table1", "a paper has paper, experiment, columns and rows"),
        ("quantity: macs, unit: million", "quantity: macs_ratio, unit: times", "flops_per_mac is for macs"),
        ("paper: A. Author 2021", "paper: [", "is not YAML"),
    ],
)
def test_mistakes_in_a_paper_are_named(conf: Path, old: str, new: str, message: str) -> None:
    path = conf / "paper" / "table1_paper.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        read_paper(path)
    assert str(path) in str(caught.value)


def test_an_unknown_paper_names_the_known_ones(conf: Path) -> None:
    with pytest.raises(ValueError, match=r"no paper and no file is named 'x'.* has table1_paper"):
        find_paper("x", conf)
    assert find_paper(str(conf / "paper" / "table1_paper.yaml"), conf).name == "table1_paper"
