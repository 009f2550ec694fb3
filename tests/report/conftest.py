"""A factory of synthetic jobs: result.json files with numbers that a test can compute with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.files.results import Result
from support.synthetic_jobs import make_job


@pytest.fixture
def job() -> Callable[..., Result]:
    """The factory itself."""
    return make_job


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., Path]:
    """Write jobs as a run would, each into a folder of its own; the folder above them."""

    def write(*jobs: Result) -> Path:
        for number, job in enumerate(jobs):
            job.write(tmp_path / "runs" / f"{number:02d}-{job.fingerprint}" / "result.json")
        return tmp_path / "runs"

    return write


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration folder with one table: columns, two rows with what was published for them, two seeds."""
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "table1.yaml").write_text(
        "title: Table 1\nsource: {paper: A. Author 2021}\ncolumns:\n"
        "  base: {quantity: accuracy_dense, unit: '%'}\n"
        "  delta: {quantity: accuracy_change, unit: points}\n"
        "  CR-F: {quantity: macs_reduction, unit: '%', convention: FLOPs removed}\n"
        "  MFLOPs: {quantity: macs, unit: million, flops_per_mac: 2}\n"
        "seeds: [0, 1]\nrows:\n"
        "  svd:\n    published: {base: 91.39, delta: -0.29, CR-F: 38.95, MFLOPs: 1.5}\n"
        "  svd_energy:\n    published: {base: 91.39, delta: -0.21, CR-F: 49.08, MFLOPs: null}\n"
    )
    return tmp_path / "conf"
