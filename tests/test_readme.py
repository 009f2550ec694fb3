"""The README's commands and its library example run as they are written."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from smoke import SMOKE

from lowrank_exp.config_path import CONF
from lowrank_exp.report.cli import main as report
from lowrank_exp.results import Result

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
JOBS = [line for line in BASH if line.startswith("lowrank-exp") and "<" not in line]
ABSENT = [line for line in BASH if line.startswith("lowrank-exp") and "<" in line]  # needs files of the reader's
QUICK = "hydra.sweeper.params.seed='0'"


def test_every_command_of_the_readme_is_looked_at():
    reports = [line for line in BASH if line.startswith("lowrank-report")]
    assert sorted(JOBS + ABSENT + reports) == sorted(BASH)
    assert len(JOBS) >= 8


@pytest.mark.parametrize("line", JOBS)
def test_command(command, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    arguments = [argument for argument in shlex.split(line)[1:] if not argument.startswith(("paths.", "seed=0,"))]
    assert command(*arguments, *SMOKE, *([QUICK] if "experiment=" in line else [])) == 0
    found = [Result.read(path) for path in (tmp_path / "outputs").glob("*/*/result.json")]
    assert bool(found) != ("dry_run=true" in line)
    assert {result.status for result in found} <= {"ok"}
    if "experiment=" in line:
        assert f"lowrank-report outputs/{found[0].experiment}" in BASH
        assert report([f"outputs/{found[0].experiment}"]) == 1  # two of the three seeds are missing here
        assert (tmp_path / f"outputs/{found[0].experiment}/report/results.csv").is_file()


@pytest.mark.parametrize("line", ABSENT)
def test_command_that_needs_files_composes(line):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[re.sub(r"<.*?>", "x", argument) for argument in shlex.split(line)[1:]])
    assert cfg.model.weights.startswith(("x", "outputs/", "IMAGENET1K"))


def test_library_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in PYTHON if "factorize_" in block)
    names: dict = {}
    exec(example, names)
    plan = names["plan"]
    assert 0.495 <= plan.remaining("macs") <= 0.505
    assert plan["features.0"] is None
    import torch

    image = torch.randn(1, 3, 64, 64)
    model, small = names["model"].eval(), names["small"].eval()
    with torch.no_grad():
        assert torch.equal(model(image), small(image))
