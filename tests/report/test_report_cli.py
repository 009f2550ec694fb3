"""The whole command: files, exit statuses, messages."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lowrank_exp.report.cli import main

FILES = {"results.csv", "results.md", "results.tex", "tradeoff.png", "tradeoff.pdf"}


def whole(job: Callable) -> list:
    return [
        job(row=r, experiment="table1", seed=s, policy=p, ratio=0.6, dense=0.91, accuracy=0.90 + 0.02 * s)
        for r, p in (("svd_energy", "energy"), ("svd", "uniform"))
        for s in (0, 1)
    ]


def test_a_complete_table(runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture) -> None:
    folder = runs(*whole(job))
    assert main([str(folder)], conf=conf) == 0
    assert {path.name for path in (folder / "report").iterdir()} == FILES
    printed = capsys.readouterr().out
    assert all(str(folder / "report" / name) in printed for name in FILES)
    assert "91.00 ± 1.41" in printed
    assert max(map(len, printed.split("results.csv")[0].splitlines()[:-1])) <= 110
    frame = pd.read_csv(folder / "report" / "results.csv")
    assert frame["row"].tolist() == ["svd", "svd_energy"]
    assert frame["n"].tolist() == [2, 2]
    assert frame["accuracy_mean"].tolist() == pytest.approx([0.91, 0.91], abs=1e-12)
    assert frame["accuracy_std"].tolist() == pytest.approx([0.02 / 2**0.5] * 2, abs=1e-12)
    assert frame["paper.CR-F"].tolist() == [38.95, 49.08]
    assert frame["paper.CR-F.difference"].tolist() == pytest.approx([40 - 38.95, 40 - 49.08], abs=1e-9)
    assert frame["paper.MFLOPs.ours"].tolist()[0] == pytest.approx(1.2, abs=1e-9)
    assert "| svd_energy      | CR-F" in (folder / "report" / "results.md").read_text()


def test_missing_and_failed_rows_make_status_1(
    runs: Callable, job: Callable, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    error = "Traceback (most recent call last):\n  File\nRuntimeError: no memory for conv_1\n"
    folder = runs(
        job(row="svd", experiment="table1", seed=0),
        job(row="svd", experiment="table1", seed=1, status="failed", error=error),
    )
    assert main([str(folder), "--out", str(tmp_path / "there")], conf=conf) == 1
    printed = capsys.readouterr().out
    assert "failed: svd, seed 1: RuntimeError: no memory for conv_1" in printed
    assert "missing: svd_energy, seed 0, 1: no result.json" in printed
    frame = pd.read_csv(tmp_path / "there" / "results.csv")
    assert frame["status"].tolist() == ["failed", "missing"]
    assert not (folder / "report").exists()


def test_results_without_a_table_are_shown_alone(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    (conf / "table" / "table1.yaml").unlink()
    assert main([str(runs(job(row="svd", experiment="table1")))], conf=conf) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_named_table_is_shown_even_without_its_results(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(job())
    assert main([str(folder)], conf=conf) == 0
    assert main([str(folder), "--paper", "table1"], conf=conf) == 1
    said = capsys.readouterr().out
    assert "Published: A. Author 2021, Table 1" in said
    assert "missing: svd_energy, seed 0, 1: no result.json" in said


def test_a_table_of_ones_own_is_found_in_its_folder(
    runs: Callable, job: Callable, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(*whole(job))
    (tmp_path / "empty").mkdir()
    assert main([str(folder), "--config-dir", str(conf)], conf=tmp_path / "empty") == 0
    assert "beside the published values" in capsys.readouterr().out
    assert main([str(folder)], conf=tmp_path / "empty") == 0
    assert "beside the published values" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paper", "nothing"], "no table and no file is named 'nothing'"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
        (["--phase", "prune"], "no job has a phase named 'prune'"),
        (["--sort", "beauty"], "no column 'beauty' to sort by"),
    ],
)
def test_mistakes_make_status_2(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture, arguments: list, message: str
) -> None:
    assert main([str(runs(job())), *arguments], conf=conf) == 2
    assert message in capsys.readouterr().err


def test_nothing_found_makes_status_2(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path)], conf=conf) == 2
    assert f"no result.json below {tmp_path}; run lowrank-exp first" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")], conf=conf) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_broken_result_is_named_and_the_report_goes_on(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(job())
    for name, text in (("broken", "{"), ("deep", "[" * 100_000), ("foreign", '{"\\u001b[31m": 1}')):
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(text)
    assert main([str(folder)], conf=conf) == 1
    lines = capsys.readouterr().out.splitlines()
    (broken,) = (line for line in lines if str(folder / "broken") in line)
    assert broken.startswith(f"cannot be read: {folder / 'broken' / 'result.json'} is not JSON")
    (deep,) = (line for line in lines if str(folder / "deep") in line)
    assert "is nested more than 50 deep" in deep
    (foreign,) = (line for line in lines if str(folder / "foreign") in line)
    assert "the result lacks config, experiment" in foreign
    assert len(pd.read_csv(folder / "report" / "results.csv")) == 1
    assert "- cannot be read: " in (folder / "report" / "results.md").read_text()


def test_no_result_that_can_be_read_makes_status_2(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(job())
    next(folder.rglob("result.json")).write_text("{")
    assert main([str(folder)], conf=conf) == 2
    assert "result.json is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["/dev/null/x", "/dev/null"])
def test_a_folder_that_cannot_be_written_makes_status_3(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture, out: str
) -> None:
    assert main([str(runs(job())), "--out", out], conf=conf) == 3
    said = capsys.readouterr()
    assert said.err.startswith("lowrank-report: [Errno ")
    assert "/dev/null" in said.err
    assert "give a folder that can be written to, --out DIR" in said.err
    assert "87.50" in said.out


def test_sorting(runs: Callable, job: Callable, conf: Path) -> None:
    folder = runs(*(job(ratio=r, accuracy=a) for r, a in ((0.5, 0.9), (0.3, 0.7), (0.4, 0.8))))
    for column in ("accuracy", "accuracy_mean", "config.rank.macs"):
        assert main([str(folder), "--sort", column], conf=conf) == 0
        frame = pd.read_csv(folder / "report" / "results.csv")
        assert frame["accuracy_mean"].tolist() == pytest.approx([0.7, 0.8, 0.9], abs=1e-12)


def test_experiments_have_sections_and_figures_of_their_own(runs: Callable, job: Callable, conf: Path) -> None:
    folder = runs(*whole(job), job(epochs=3))
    assert main([str(folder)], conf=conf) == 0
    names = {path.name for path in (folder / "report").glob("*.png")}
    assert names == {"tradeoff-table1.png", "tradeoff-no_experiment.png"}
    text = (folder / "report" / "results.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## table1", "## no experiment"]


def test_the_report_needs_no_torch() -> None:
    code = "import sys, lowrank_exp.report.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missed_target_makes_status_1_and_a_warning_does_not(
    runs: Callable, job: Callable, conf: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(job(warnings=("at chance",)))
    assert main([str(folder)], conf=conf) == 0
    assert "warning: decompose, seed 0: finetune: at chance" in capsys.readouterr().out
    folder = runs(job(status="missed", warnings=("0.96 of the MACs remain",)))
    assert main([str(folder)], conf=conf) == 1
    assert "missed: decompose, seed 0: finetune: 0.96 of the MACs remain" in capsys.readouterr().out
    assert pd.read_csv(folder / "report" / "results.csv")["status"].tolist() == ["missed"]


@pytest.mark.parametrize("argument", ["--out", "--html", "--config-dir"])
def test_an_empty_path_is_refused(runs: Callable, job: Callable, capsys: pytest.CaptureFixture, argument: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(runs(job())), argument, ""])
    assert end.value.code == 2
    assert f"argument {argument}: an empty path names nothing" in capsys.readouterr().err
