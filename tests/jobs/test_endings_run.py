"""How a job ends is said where its result stands: warnings and missed targets."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.phases.phase import Done
from lowrank_exp.phases.small import Evaluate
from lowrank_exp.report.cli import main as report
from support.smoke import SMOKE

EVALUATE = ("method=evaluate", *(o for o in SMOKE if not o.startswith(("logger", "progress"))))


def results(outputs: Path) -> list[Result]:
    return [Result.read(path) for path in sorted(outputs.glob("*/*/result.json"))]


def ends_with(monkeypatch: pytest.MonkeyPatch, **done: object) -> None:
    """The phase that changes nothing says so much of itself."""
    monkeypatch.setattr(Evaluate, "run_", lambda self, network, setting: Done(**done))


def test_a_missed_target_is_a_finished_job_and_exit_status_1(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    ends_with(monkeypatch, warnings=["0.96 of the MACs remain"], missed=True, applied=False)
    assert command(*EVALUATE, "logger=csv") == 1
    told = capfd.readouterr()
    assert "warning: evaluate: 0.96 of the MACs remain" in told.out
    assert "missed: evaluate: 0.96 of the MACs remain" in told.err
    (result,) = results(tmp_path / "outputs")
    (phase,) = result.phases
    assert (result.status, phase.missed, phase.warnings) == ("missed", True, ["0.96 of the MACs remain"])
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    assert (path.parent / "model.pt").is_file()
    lines = csv.DictReader(next(path.parent.glob("csv/*.csv")).open())
    logged = {name: float(value) for line in lines for name, value in line.items() if value}
    assert (logged["missed"], logged["warnings"]) == (1, len(result.told())) == (1, 2)  # that nothing trained it, too

    ends_with(monkeypatch)  # never asked again: neither with the result at hand nor from the store
    written = path.stat().st_mtime_ns
    assert command(*EVALUATE, "logger=none") == 1
    assert "finished already" in capfd.readouterr().out
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert command(*EVALUATE, "logger=none") == 1
    assert results(tmp_path / "outputs")[0].phases[0].warnings == ["0.96 of the MACs remain"]
    assert report([str(tmp_path / "outputs/runs")]) == 1


def test_a_sweep_goes_on_after_a_missed_target(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    ends_with(monkeypatch, warnings=["0.96"], missed=True)
    assert command("-m", *EVALUATE, "logger=none", "seed=0,1") == 1
    assert {(result.seed, result.status) for result in results(tmp_path / "outputs")} == {(0, "missed"), (1, "missed")}
    assert "missed: evaluate: 0.96" in capfd.readouterr().err
