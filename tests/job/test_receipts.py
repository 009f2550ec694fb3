"""Finished jobs answer by their receipt, without torch; whatever may change the result makes them go the long way."""

import os
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from lowrank_exp.job import run as job_run
from lowrank_exp.job.receipts import RECEIPT, _receipt
from lowrank_exp.models import lenet5
from support.smoke import SMOKE

PROGRAM = """
import sys
from lowrank_exp.cli import main
main()
print("with torch:", "torch" in sys.modules)
"""


def asked(tmp_path) -> tuple[str, ...]:
    """A job on a file of weights."""
    torch.save(lenet5().state_dict(), tmp_path / "weights.pt")
    return ("method=evaluate", f"model.weights={tmp_path / 'weights.pt'}", *SMOKE)


def test_a_finished_job_answers_without_torch(command, tmp_path, capsys):
    line = asked(tmp_path)
    assert command(*line) == 0
    first = capsys.readouterr().out
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, *line, f"paths.outputs={tmp_path / 'outputs'}", "threads=1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert again[0] == "finished already; nothing is run again"
    assert again[-1] == "with torch: False"
    (path,) = (tmp_path / "outputs").glob("runs/*/result.json")
    assert again[-2] == first.splitlines()[-1] == str(path)
    said = [part for part in first.split() if part in " ".join(again)]
    assert len(said) > 0.9 * len(first.split())  # the same tables, but for what says that it was computed


def test_what_makes_a_finished_job_go_the_long_way(command, tmp_path, monkeypatch):
    gone, run = [], job_run.run
    monkeypatch.setattr(job_run, "run", lambda *given: gone.append(1) or run(*given))
    line = asked(tmp_path)

    def times(*more: str) -> int:
        gone.clear()
        assert command(*line, *more) == 0
        return len(gone)

    assert [times(), times(), times("progress=true"), times("logger=csv")] == [1, 0, 0, 0]
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    os.utime(tmp_path / "weights.pt", (0, 0))
    assert [times(), times()] == [1, 0]
    model = bytearray((folder / "model.pt").read_bytes())
    model[len(model) // 2] ^= 0xFF
    (folder / "model.pt").write_bytes(model)
    assert [times(), times()] == [1, 0]
    (folder / "result.json").write_text((folder / "result.json").read_text() + "\n")
    assert [times(), times()] == [1, 0]
    assert times("latency.seconds=0.01") == 1
    assert times("dry_run=true") == 1
    assert times() == 1  # the receipt is of what was asked last
    (folder / RECEIPT).write_text("[")
    assert [times(), times()] == [1, 0]
    monkeypatch.setattr("lowrank_exp.job.receipts._code", lambda: "another version")
    assert times() == 1


@pytest.mark.parametrize(("target", "has"), [("lowrank_exp.models.lenet5", True), ("mine.Network", False)])
def test_code_of_ones_own_has_no_receipt(tmp_path, target, has):
    (tmp_path / "result.json").write_text("{}")
    cfg = OmegaConf.create(
        {"progress": False, "model": {"_target_": target}, "seed": 0, "paths": {"outputs": "mine.outputs"}}
    )
    assert (_receipt(cfg, {"model": "one", "launcher": "serial"}, tmp_path) is not None) == has
