"""What a sweep prints: a line per job as it ends, the tables with -v; and where a job has been before, what of it."""

import re

import pytest

from lowrank_exp.files.results import Result
from support.smoke import SMOKE

SWEEP = ("-m", *SMOKE, "rank=uniform", "rank.macs=0.5,0.7")


def lines_of(capfd) -> list[str]:
    """Of standard output, without seconds."""
    return [re.sub(r"\b\d+\.\d s\b", "T", line) for line in capfd.readouterr().out.splitlines()]


@pytest.mark.slow
def test_a_line_per_job_says_what_it_has_reached_and_what_came_from_the_store(command, tmp_path, capfd):
    assert command(*SWEEP, "progress=true") == 0
    found = {
        result.config["rank"]["macs"]: result
        for result in map(Result.read, tmp_path.glob("outputs/runs/*/result.json"))
    }
    reached = []
    for macs in (0.5, 0.7):
        dense, last = found[macs].dense, found[macs].phases[-1]
        accuracies = f"test {100 * last.accuracy:.2f} %, dense {100 * dense.accuracy:.2f} %"
        reached.append(f"{accuracies}; {last.macs:,} MACs, {100 * last.macs / dense.macs:.2f} %")
    folder = tmp_path / "outputs" / "runs"
    end = ["[sweep] 2 of 2 jobs ended well", f"lowrank-report {folder} --html {folder / 'report.html'}"]
    told = [line for line in lines_of(capfd) if not line.startswith("      warning: ")]
    assert told == [
        "[sweep] Launching 2 jobs locally",
        f"#0 rank.macs=0.5: {reached[0]}; T",
        f"#1 rank.macs=0.7: {reached[1]}; T, train from the store",
        *end,
    ]
    assert command(*SWEEP) == 0
    told = [line for line in lines_of(capfd) if not line.startswith("      warning: ")]
    assert told[1:3] == [f"#{n} rank.macs={macs}: {reached[n]}; from the store" for n, macs in enumerate((0.5, 0.7))]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-v", "--verbose", "verbose=true"])
def test_every_job_prints_its_tables_where_they_are_asked_for(command, capfd, flag):
    assert command(*SWEEP, flag) == 0
    lines = lines_of(capfd)
    assert [line for line in lines if line.startswith("#")] == ["#0 rank.macs=0.5", "#1 rank.macs=0.7"]
    assert [line.split()[:3] for line in lines].count(["layer", "decomposition", "rank"]) == 2
    (stored,) = [line for line in lines if line.startswith("train ") and line.endswith("  from the store")]
    assert "61,470" in stored


def test_a_job_alone_prints_a_line_where_that_is_asked_for(command, capfd):
    job = (*SMOKE, "method=train", "verbose=false")
    assert command(*job) == 0
    (line, *warnings) = lines_of(capfd)
    assert re.fullmatch(r"test \d+\.\d\d %; 416,520 MACs; T", line)
    assert all(one.startswith("      warning: ") for one in warnings)
    assert command(*job) == 0
    assert lines_of(capfd)[0] == line.replace("T", "from the store")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [("launcher=joblib", "launcher.n_jobs=2"), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")]
)
def test_jobs_side_by_side_have_the_names_of_their_overrides(command, capfd, launcher):
    assert command("-m", *SMOKE, "method=train", "seed=1,0", *launcher) == 0
    lines = lines_of(capfd)
    assert lines[0] == "[sweep] Launching 2 jobs, 2 at a time"
    assert sorted(line.partition(": ")[0] for line in lines if line.startswith("#")) == ["#0 seed=1", "#1 seed=0"]
    assert not [line for line in lines if "Joblib" in line or "sweep output dir" in line]


def test_a_refused_job_is_told_at_once_and_at_the_end(command, capfd):
    assert command("-m", *SMOKE, "method=train", "training.epochs=-1,1") == 1
    said = capfd.readouterr()
    told = "#0 training.epochs=-1: training.epochs=-1 is refused: allowed is a whole number of at least 0"
    assert [line for line in said.err.splitlines() if line.startswith(told)]
    assert [line for line in said.out.splitlines() if line.startswith(f"[sweep] {told}")]
    assert "[sweep] 1 of 2 jobs ended well" in said.out


class StopError(Exception):
    """Ends a fit after an epoch, as a kill would."""


@pytest.mark.parametrize(
    ("sweep", "told"), [((), r"train goes on after epoch 1 of 3"), (("-m",), r"#0.*; T, train after epoch 1 of 3")]
)
def test_a_phase_that_goes_on_says_after_which_epoch(command, capfd, monkeypatch, sweep, told):
    job = (*sweep, *SMOKE, "method=train", "training.epochs=3")
    with monkeypatch.context() as patched:
        patched.setattr("lowrank_exp.job.loggers.Log.epoch", lambda *arguments: (_ for _ in ()).throw(StopError()))
        assert command(*job) == 1
    capfd.readouterr()
    assert command(*job) == 0
    assert [line for line in lines_of(capfd) if re.fullmatch(told, line)]
