"""One byte of a stored file is another: the next run gives the undisturbed numbers, a reader these or the file's name.

Every kind of file that a job leaves or reads is damaged, at a place that a seed draws.
"""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrank_exp.artifact import load
from lowrank_exp.files.results import Result
from lowrank_exp.rank.error_store import ErrorStore
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.report.cli import main as report
from support.fault_jobs import DECOMPOSE, bits, figures, into, job_folder, leftovers, tensors
from support.forked import forked, lowrank_exp

JOB = (*DECOMPOSE, "export=torchscript")
KINDS = (  # of files, by what their path ends with
    r"store/train-\w+/network.pt",
    r"store/finetune-\w+/network.pt",
    r"store/train-\w+/outcome.json",
    r"store/finetune-\w+/outcome.json",
    r"store/factorize-\w+/plan.yaml",
    r"store/finetune-\w+/confusion.csv",
    r"store/svd/\w+.pt",
    r"store/finetune-\w+.lock",
    r"runs/\w+/result.json",
    r"runs/\w+/model.pt",
    r"runs/\w+/model.ts",
    r"runs/\w+/plan.yaml",
    r"runs/\w+/confusion/finetune.csv",
    r"runs/\w+/.receipt.json",
    r"runs/\w+/.phases.json",
    r"runs/\w+/.hydra/config.yaml",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a finished job."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    ended = forked(lowrank_exp, *JOB, into(outputs))
    assert ended.status == 0, ended.said
    return outputs


def flip(path: Path, seed: str) -> None:
    """One bit of a file is another one; an empty file has a byte more."""
    content, chance = bytearray(path.read_bytes()), random.Random(seed)
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content) or b"\x01")


def given(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read from a file, or the message of its ValueError."""
    try:
        return read(path)
    except ValueError as error:
        return str(error)


@pytest.mark.slow
def test_the_next_run_gives_the_undisturbed_numbers(finished: Path, tmp_path: Path) -> None:
    before = figures(finished)
    for kind in KINDS:
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        outputs = Path(shutil.copytree(finished, tmp_path / "outputs"))
        path = next(path for path in sorted(outputs.rglob("*")) if re.search(f"{kind}$", str(path)))
        flip(path, kind)
        if "store/" in kind:  # the job is to look there
            shutil.rmtree(job_folder(outputs))
        if "svd" in kind:
            shutil.rmtree(next(outputs.glob("store/factorize-*/")))
        ended = forked(lowrank_exp, *JOB, into(outputs))
        assert ended.status == 0, (kind, ended.said)
        assert figures(outputs) == before, kind
        assert leftovers(outputs) == [], kind


@pytest.mark.slow
def test_readers_give_the_undisturbed_numbers_or_name_the_file(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    outputs = Path(shutil.copytree(finished, tmp_path / "outputs"))
    network, result = job_folder(outputs) / "model.pt", job_folder(outputs) / "result.json"
    weights, written = tensors(network), result.read_bytes()
    for seed in map(str, range(20)):
        flip(network, seed)
        found = given(load, network)
        assert str(network) in found if isinstance(found, str) else bits(found.state_dict()) == weights
        shutil.copy(job_folder(finished) / "model.pt", network)
    before = Result.read(result)
    told = 0
    for seed in map(str, range(200)):
        flip(result, seed)
        found = given(Result.read, result)
        assert str(result) in found if isinstance(found, str) else found == before or not found.intact
        told += isinstance(found, str)
        result.write_bytes(written)
    assert 0 < told < 200
    text = written.decode()
    (accuracy,) = {str(phase.accuracy) for phase in before.phases if phase.name == "finetune"}
    result.write_text(text.replace(f'"accuracy": {accuracy}', '"accuracy": 0.99'))
    capfd.readouterr()
    assert report([str(outputs / "runs"), "--html", str(tmp_path / "page.html")]) == 0
    line = f"{result} has changed since it was written: the figures are those that stand there now"
    assert line in " ".join(capfd.readouterr().out.split())
    assert line in (outputs / "runs/report/results.md").read_text().replace("\\", "")
    assert line in (tmp_path / "page.html").read_text()
    assert report(["--compare", str(job_folder(outputs)), str(job_folder(outputs))]) == 0
    assert line in capfd.readouterr().out


def test_every_byte_of_errors_and_times_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ErrorStore(tmp_path / "errors").write("key", {"3": [0.25], "2 4": [0.125, 1.5]})
    TimeStore(tmp_path / "times").table({"layer": "conv1"}, ["3"], lambda names: {"3": 0.75})
    readers = {
        "errors": (lambda: ErrorStore(tmp_path / "errors").read("key"), {"3": [0.25], "2 4": [0.125, 1.5]}),
        "times": (lambda: TimeStore(tmp_path / "times").table({"layer": "conv1"}, ["3"], lambda names: {"3": 0.5}), {}),
    }
    for name, (read, whole) in readers.items():
        (path,) = (tmp_path / name).iterdir()
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x04]) + content[place + 1 :])
            caplog.clear()
            assert read() == ({} if name == "errors" else {"3": 0.5}), content[place:]
            assert str(path) in caplog.text
        path.write_bytes(content)
        assert read() == (whole or {"3": 0.75})
