"""What lies in the store or in a job's folder and is not what was written: it is told and computed again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lowrank_exp.files.results import Result
from lowrank_exp.files.whole import file_digest
from support.smoke import SMOKE

JOB = (*SMOKE, "rank=uniform")


def flipped(content: bytes) -> bytes:
    """One byte in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "foreign": lambda content: b"\xff\xfe\x00",
    "other JSON": lambda content: b"[1, 2]",
    "flipped": flipped,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The outputs of a finished job."""
    from lowrank_exp.cli import main

    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lowrank-exp", *JOB, f"paths.outputs={outputs}", "threads=1"])
        main()
    return outputs


@pytest.fixture
def outputs(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "outputs")
    return tmp_path / "outputs"


def job_folder(outputs: Path) -> Path:
    (path,) = outputs.glob("runs/*/result.json")
    return path.parent


def figures(outputs: Path) -> list:
    result = Result.read(job_folder(outputs) / "result.json")
    return [(p.name, p.key, p.accuracy, p.loss, p.class_accuracy) for p in result.phases]


def computed(outputs: Path) -> list[str]:
    """The phases that the last run has computed."""
    result = Result.read(job_folder(outputs) / "result.json")
    return [phase.name for phase in result.phases if not phase.stored]


CASES = [
    *(("finetune", "network.pt", damage) for damage in ("cut", "empty", "flipped")),
    *(("factorize", "plan.yaml", damage) for damage in ("cut", "foreign")),
    *(("finetune", "confusion.csv", damage) for damage in ("cut", "flipped")),
    *(("finetune", "outcome.json", damage) for damage in DAMAGE),
]


@pytest.mark.parametrize(("phase", "name", "damage"), CASES)
def test_a_phase_with_a_damaged_file_is_told_and_computed_again(command, outputs, capsys, phase, name, damage):
    before, weights = figures(outputs), torch.load(job_folder(outputs) / "model.pt", weights_only=True)["state_dict"]
    (path,) = outputs.glob(f"store/{phase}-*/{name}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    shutil.rmtree(job_folder(outputs))
    assert command(*JOB) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "computed again" in line)
    assert line.startswith(f"{phase} is computed again: in {path.parent}, {name} ")
    assert computed(outputs) == [phase]
    assert figures(outputs) == before
    again = torch.load(job_folder(outputs) / "model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    ("phase", "name", "damage"),
    [
        ("finetune", "network.pt", "cut"),
        ("finetune", "network.pt", "flipped"),
        ("factorize", "plan.yaml", "foreign"),
        ("finetune", "confusion.csv", "empty"),
    ],
)
def test_outcomes_without_digests_are_checked_by_being_read(command, outputs, capsys, phase, name, damage):
    for path in outputs.glob("store/*/outcome.json"):
        record = json.loads(path.read_text())
        for later in ("files", "digest", "conditions"):
            del record[later]
        path.write_text(json.dumps(record))
    (path,) = outputs.glob(f"store/{phase}-*/{name}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    shutil.rmtree(job_folder(outputs))
    assert command(*JOB) == 0
    assert f"{phase} is computed again: in {path.parent}, {name} cannot be read" in capsys.readouterr().out
    assert computed(outputs) == [phase]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("model.pt", "empty"), ("model.pt", "flipped"), ("plan.yaml", "missing"), ("confusion/finetune.csv", "cut")],
)
def test_a_job_whose_file_is_damaged_is_not_finished(command, outputs, capsys, name, damage):
    path = job_folder(outputs) / name
    whole = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(DAMAGE[damage](whole))
    assert command(*JOB) == 0
    said = capsys.readouterr().out
    assert f"running again: in {path.parents[name.count('/')]}, {name} " in said
    assert path.read_bytes() == whole
    assert computed(outputs) == []
    assert command(*JOB) == 0
    assert "finished already" in capsys.readouterr().out


def test_a_result_of_an_earlier_version_is_finished_unless_its_network_is_damaged(command, outputs, capsys):
    path = job_folder(outputs) / "result.json"
    record = json.loads(path.read_text())
    for later in ("files", "skipped", "warnings", "digest"):
        del record[later]
    path.write_text(json.dumps(record))
    assert command(*JOB) == 0
    assert "finished already" in capsys.readouterr().out
    (path.parent / "model.pt").write_bytes(b"")
    assert command(*JOB) == 0
    assert "running again: " in capsys.readouterr().out


@pytest.mark.parametrize("place", [("phases", 0, "key"), ("skipped", "recalibrate")])
def test_the_key_of_every_phase_counts(command, outputs, capsys, place):
    path = job_folder(outputs) / "result.json"
    record = json.loads(path.read_text())
    del record["digest"]  # by which a change is seen, too
    inner = record
    for part in place[:-1]:
        inner = inner[part]
    assert len(inner[place[-1]]) == 64
    inner[place[-1]] = "0" * 64
    path.write_text(json.dumps(record))
    assert command(*JOB) == 0
    assert "finished already" not in capsys.readouterr().out


def test_digests_are_those_of_the_files(outputs):
    folder = job_folder(outputs)
    result = Result.read(folder / "result.json")
    confusions = [f"confusion/{phase}.csv" for phase in ("factorize", "finetune", "train")]
    assert sorted(result.files) == sorted([*confusions, "model.pt", "plan.yaml"])
    assert all(file_digest(folder / name) == digest for name, digest in result.files.items())
    assert list(result.skipped) == ["recalibrate"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "flipped"])
def test_a_phase_with_a_damaged_checkpoint_is_told_and_starts_anew(command, tmp_path, capsys, monkeypatch, damage):
    job = (*SMOKE, "method=train", "training.epochs=2")

    def ended(*_, **__):
        raise RuntimeError("after training")

    with monkeypatch.context() as patch:
        patch.setattr("lowrank_exp.job.network_job.artifact.save", ended)
        assert command(*job) == 1
    (path,) = (tmp_path / "outputs/store").glob("train-*/last.ckpt")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    capsys.readouterr()
    assert command(*job) == 0
    assert f"train starts anew: {path} is not a readable checkpoint" in capsys.readouterr().out
    assert command(*job, outputs=tmp_path / "undisturbed") == 0
    assert figures(tmp_path / "outputs") == figures(tmp_path / "undisturbed")
