"""The pages on parts of one's own do what they say: their files are written, their commands run."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from lowrank_exp import load
from lowrank_exp.files.results import Result
from lowrank_exp.report.cli import main as report
from support.smoke import SMOKE

PAGES = Path(__file__).parents[1] / "docs" / "extend"


def commands(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of a page's commands; its files lie in the working folder."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    for name, block in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.S):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [shlex.split(line) for line in block.splitlines()]


def run(page: str, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    first, *others = commands(page, tmp_path, monkeypatch)
    assert command(*first[1:], *SMOKE) == 0
    for program, *arguments in others:
        assert program == "lowrank-report"
        assert report(arguments) == 0
    return sorted(
        (Result.read(path) for path in (tmp_path / "outputs").glob("*/*/result.json")), key=lambda one: one.row or ""
    )


@pytest.mark.slow
def test_a_decomposition(command, tmp_path, monkeypatch):
    (result,) = run("decomposition", command, tmp_path, monkeypatch)
    used = {layer.name: layer.decomposition for layer in result.layers if layer.rank is not None}
    assert used
    assert set(used.values()) == {"rows_svd"}
    assert set(used) <= {"fc1", "fc2", "fc3"}
    dense, small = (next(one.weights for one in result.phases if one.name == name) for name in ("train", "factorize"))
    assert small / dense == pytest.approx(0.7, rel=0.0101)
    network = load(result.folder / "model.pt")
    rank = next(layer.rank for layer in result.layers if layer.name == "fc1")
    assert [one.out_features for one in network.fc1] == [rank, 120]
    assert "my_decomposition" in sys.modules


@pytest.mark.slow
def test_a_policy(command, tmp_path, monkeypatch):
    (result,) = run("policy", command, tmp_path, monkeypatch)
    ranks = {layer.name: layer.rank for layer in result.layers}
    assert ranks["fc3"] is None
    cheaper = 120 * 84 // (120 + 84)  # the ranks of fc2 with which it has fewer weights
    assert ranks["fc2"] == 1 + int(0.25 * (cheaper - 1))
    assert {layer.reason for layer in result.layers if layer.rank} == {"chosen by share_of_ranks"}


@pytest.mark.slow
def test_a_phase(command, tmp_path, monkeypatch):
    (result,) = run("phase", command, tmp_path, monkeypatch)
    assert [phase.name for phase in result.phases] == ["train", "clip", "factorize", "finetune"]
    assert 0.05 < result.phases[1].values["clipped_fraction"] < 0.2
    assert result.phases[1].macs == result.phases[0].macs


@pytest.mark.slow
def test_a_table(command, tmp_path, monkeypatch):
    half, third = run("table", command, tmp_path, monkeypatch)
    assert [half.row, third.row] == ["half", "third"]
    for result, share in ((half, 0.5), (third, 0.33)):
        assert result.beside_dense()["macs_ratio"] == pytest.approx(share, rel=0.0101)
    written = (tmp_path / "outputs" / "halves" / "report" / "results.md").read_text(encoding="utf-8")
    assert "91.2" in written
    assert "90.1" in written
