"""`lowrank-exp store`: what two small jobs have left, before and after something is broken or not needed."""

import json
import shutil
from pathlib import Path

import pytest

from lowrank_exp.files.exclusion import hold_lock
from lowrank_exp.files.results import Result, digest
from lowrank_exp.job.store_command import main
from support.smoke import SMOKE

SMALL = ("data.test=0.8", "losses.images=0", "reconstruct=none", "method.order=[train,factorize]", "rank=uniform")
BUDGETS = (0.4, 0.6)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Outputs of two jobs that share their dense network."""
    from lowrank_exp.cli import main

    outputs = tmp_path_factory.mktemp("made") / "outputs"
    sweep = ("-m", *SMOKE, *SMALL, f"rank.macs={','.join(map(str, BUDGETS))}", f"paths.outputs={outputs}", "threads=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lowrank-exp", *sweep])
        main()
    times = {"key": {"machine": "this"}, "ms": {"3": 1.5}}
    (outputs / "store" / "times").mkdir()
    path = outputs / "store" / "times" / f"{digest(times['key'])[:24]}.json"
    path.write_text(json.dumps({**times, "digest": digest(times)}))
    return outputs


@pytest.fixture
def outputs(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "outputs"))


@pytest.fixture
def store(outputs, capsys):
    """The command in these outputs: its exit status and what it printed."""

    def call(*arguments: str) -> tuple[int, list[str]]:
        status = main([*arguments, "--store", str(outputs / "store")])
        captured = capsys.readouterr()
        return status, (captured.out + captured.err).splitlines()

    return call


def job_of(outputs: Path, budget: float) -> Path:
    (path,) = (p for p in outputs.glob("runs/*/result.json") if Result.read(p).config["rank"]["macs"] == budget)
    return path.parent


def names(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / "store").iterdir() if "-" in path.name and path.is_dir())


def test_everything_is_listed_with_its_jobs_and_counted_by_kind(outputs, store):
    status, lines = store("list")
    assert status == 0
    jobs = {budget: f"runs/{job_of(outputs, budget).name}" for budget in BUDGETS}
    (train,) = (line for line in lines if line.startswith("train-"))
    assert train.endswith(f"2 jobs: {', '.join(sorted(jobs.values()))}")
    ends = sorted(line.partition("  1 job: ")[2] for line in lines if line.startswith("factorize-"))
    assert ends == sorted(jobs.values())
    totals = {words[1]: int(words[0]) for line in lines[3:] if (words := line.split())}
    assert totals == {"networks": 3, "SVDs": len(list(outputs.glob("store/svd/*.pt"))), "times": 1}
    size = sum(path.stat().st_size for path in outputs.glob("store/train-*/*"))
    assert f"{size / 1000:.1f} kB" in train
    assert store("verify")[0] == 0
    assert store("verify")[1][-1] == "all is whole"


@pytest.mark.parametrize(
    ("pattern", "damage", "told"),
    [
        ("train-*/network.pt", lambda path: path.write_bytes(path.read_bytes()[:-100]), "network.pt has changed"),
        ("factorize-*/plan.yaml", lambda path: path.unlink(), "plan.yaml is missing"),
        ("train-*/outcome.json", lambda path: path.unlink(), "outcome.json is missing"),
        ("train-*", lambda path: path.rename(path.with_name(f"train-{'0' * 16}")), "its key is that of train-"),
        ("svd/*.pt", lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a whole file of torch"),
        ("times/*.json", lambda path: path.write_text(path.read_text().replace("1.5", "2.5")), "it has changed"),
        ("times/*.json", lambda path: path.rename(path.with_name("0.json")), "its key is that of another file"),
    ],
)
def test_what_is_broken_is_named(outputs, store, pattern, damage, told):
    path = sorted((outputs / "store").glob(pattern))[0]
    damage(path)
    status, lines = store("verify")
    assert status == 1
    (line,) = (line for line in lines if line.startswith("broken: "))
    assert told in line
    assert str(outputs / "store") in line
    assert lines[-1].startswith("1 of ")


def test_what_no_job_uses_is_removed_after_asking(outputs, store, command, monkeypatch, capsys):
    before = names(outputs)
    assert store("prune") == (0, ["nothing to remove: the 2 jobs use the rest"])
    gone = job_of(outputs, 0.4)
    (of_it,) = (phase.key[:16] for phase in Result.read(gone / "result.json").phases if phase.name == "factorize")
    shutil.rmtree(gone)
    with hold_lock(outputs / "store" / f"factorize-{of_it}.lock", lambda: None):
        assert store("prune")[1] == ["nothing to remove: the 1 jobs use the rest"]  # somebody computes it just now
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert store("prune")[1][-1] == "nothing is removed"
        assert names(outputs) == before
    monkeypatch.setattr("builtins.input", lambda _: "y")
    status, lines = store("prune")
    assert status == 0
    assert lines[0].startswith(f"{outputs}/store/factorize-{of_it} ")
    assert names(outputs) == [name for name in before if name != f"factorize-{of_it}"]
    assert len(list(outputs.glob("store/times/*.json"))) == 1
    assert store("verify")[0] == 0
    assert command(*SMOKE, *SMALL, "rank.macs=0.6", outputs=outputs) == 0
    assert "finished already" in capsys.readouterr().out


def test_what_unfinished_jobs_may_use_is_kept(outputs, store):
    job = job_of(outputs, 0.4)
    (job / "result.json").unlink()  # killed, after it had noted its phases
    assert store("prune", "--yes")[1] == ["nothing to remove: the 2 jobs use the rest"]
    (job / ".phases.json").unlink()  # one of an earlier version
    before = names(outputs)
    unneeded = outputs / "store" / "svd" / "unneeded.pt"
    unneeded.write_bytes(b"")
    status, lines = store("prune", "--yes")
    assert status == 0
    assert lines[0].startswith("networks and checkpoints are kept: 1 of 2 jobs, such as ")
    assert names(outputs) == before
    assert not unneeded.exists()
    for path in (job, job_of(outputs, 0.6)):
        shutil.rmtree(path)
    status, lines = store("prune", "--yes")
    assert status == 2
    assert "there is no job below" in lines[0]
    assert names(outputs) == before


def test_a_store_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["list", "--outputs", str(tmp_path)]) == 2
    assert f"{tmp_path}/store is not a folder" in capsys.readouterr().err
