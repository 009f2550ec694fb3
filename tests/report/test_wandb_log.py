"""`lowrank-report --wandb`: the comparison as an offline run, read back from its files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.files.whole import file_digest
from lowrank_exp.report.cli import main
from support.synthetic_jobs import make_job
from support.synthetic_page import ROWS, TABLE, whole_job
from support.wandb_files import wandb_artifacts, wandb_run, wandb_tables

EXPORT = {
    **{"format": "onnx", "files": ["model.onnx"], "opset": 20, "bytes": 4, "subnormals": 0},
    **{"images": 8, "of": "validation", "difference": 0.0, "equal_predictions": 1.0},
}


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for somebody who has never set up wandb."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def write(root: Path, job: Result, *, exported: bool = False) -> Path:
    """A job's folder with its files, as the job has left it."""
    folder = root / job.fingerprint
    folder.mkdir(parents=True)
    names = ["model.pt", "plan.yaml", *(["model.onnx"] if exported else [])]
    for name in names:
        (folder / name).write_text(f"{name} of {job.fingerprint}")
    files = {name: file_digest(folder / name) for name in names}
    replace(job, files=files, exports=[EXPORT] if exported else []).write(folder / "result.json")
    return folder


def test_rows_fronts_and_the_networks_to_take(tmp_path, capsys):
    (tmp_path / "conf/table").mkdir(parents=True)
    (tmp_path / "conf/table/table1.yaml").write_text(TABLE)
    jobs = [whole_job(*row[:3], accuracy, row[4], seed) for row in ROWS for seed, accuracy in enumerate(row[3])]
    for job in jobs:
        write(tmp_path / "runs", job, exported=job.row == "energy")
    report = tmp_path / "runs/report"
    assert main([str(tmp_path / "runs"), "--wandb"], conf=tmp_path / "conf") == 1  # a row is absent
    said = capsys.readouterr().out.splitlines()
    (folder,) = (report / "wandb").glob("offline-run-*")
    assert said[-1] == f"{folder}: send it by wandb sync {folder}"

    run = wandb_run(report)
    assert (run["run"].job_type, run["run"].project, run["run"].display_name) == (
        "report",
        "lowrank_exp",
        "report table1",
    )
    assert run["exits"] == [0]
    assert run["tags"] == {"table1"}
    best = json.loads(run["summary"]["table1/best"])
    assert best.startswith("within 0.5 points: by time svd (1.33 times as fast, -0.20 points), by MACs svd (50.0 %")

    tables = wandb_tables(report)
    assert set(tables) == {
        "table1/rows",
        "table1/published",
        "table1/front_macs_ratio_table",
        "table1/front_latency_ms_table",
    }
    rows = {row["row"]: row for row in tables["table1/rows"]}
    assert set(rows) == {"svd", "energy", "cheap", "poor", "absent"}
    assert rows["svd"]["accuracy_mean"] == pytest.approx(0.898, abs=1e-12)
    assert (rows["svd"]["n"], rows["absent"]["n"], rows["absent"]["accuracy_mean"]) == (2, 0, None)
    assert rows["svd"]["paper.accuracy"] == 89.5
    assert rows["svd"]["paper.accuracy.difference"] == pytest.approx(89.8 - 89.5, abs=1e-9)
    assert rows["svd"]["fingerprints"].split() == [job.fingerprint for job in jobs if job.row == "svd"]
    published = {(row["configuration"], row["column"]): row for row in tables["table1/published"]}
    assert published["energy", "FLOPs"]["paper"] == 35
    assert published["energy", "FLOPs"]["ours"] == pytest.approx(30, abs=1e-9)

    points = {row["configuration"]: row for row in tables["table1/front_macs_ratio_table"]}
    assert {name: (row["kind"], row["on the front"]) for name, row in points.items()} == {
        **{"svd": ("ours", "yes"), "energy": ("ours", "yes"), "cheap": ("ours", "yes"), "poor": ("ours", "no")},
        **{"dense": ("dense", ""), "svd, published": ("published", ""), "energy, published": ("published", "")},
    }
    assert points["svd"]["MACs that remain"] == pytest.approx(0.5, abs=1e-12)
    assert points["dense"]["MACs that remain"] == 1
    assert (points["energy, published"]["MACs that remain"], points["energy, published"]["accuracy %"]) == (0.35, 88.0)
    times = {row["configuration"]: row["ms of one forward pass"] for row in tables["table1/front_latency_ms_table"]}
    assert times == {"svd": 3.0, "energy": 3.5, "cheap": 2.0, "poor": 3.8, "dense": 4.0}

    artifacts = wandb_artifacts(report, "model")
    assert sorted(name.rpartition("-")[0] for name in artifacts) == ["table1-energy", "table1-svd"]
    (told, files), (other, _) = (artifacts[name] for name in sorted(artifacts))
    of = {job.seed: job for job in jobs if job.row == "energy"}
    assert told["runs"] == {str(seed): job.fingerprint for seed, job in of.items()}
    assert told["chosen"] == ["within 1 points by MACs: 30.0 % of the MACs, accuracy -0.60 points"]
    assert [line.partition(": ")[0] for line in other["chosen"]] == [
        "within 0.5 points by time",
        "within 0.5 points by MACs",
        "within 1 points by time",
    ]
    assert told["commands"]["1"] == "lowrank-exp hydra.mode=RUN experiment=table1 row=table1/energy seed=1"
    names = ("result.json", "model.pt", "plan.yaml", "model.onnx")
    assert set(files) == {f"seed{seed}/{name}" for seed in of for name in names}
    for seed, job in of.items():
        assert Path(files[f"seed{seed}/model.onnx"]).read_text() == f"model.onnx of {job.fingerprint}"


def test_the_same_comparison_is_the_same_run_and_what_is_not_there_is_told(tmp_path, capsys):
    folder = write(tmp_path / "runs", make_job(accuracy=0.9, ratio=0.25, seed=7))
    (folder / "plan.yaml").write_text("another plan")
    (folder / "model.pt").unlink()
    assert main([str(tmp_path / "runs"), "--wandb"]) == 0
    (first,) = (tmp_path / "runs/report/wandb").glob("offline-run-*")
    said = capsys.readouterr().out
    assert f"model.pt is missing ({folder})" in said
    assert f"plan.yaml has changed since it was written ({folder})" in said
    ((_, files),) = wandb_artifacts(tmp_path / "runs/report", "model").values()
    assert set(files) == {"seed7/result.json"}
    (first / "debris").touch()
    assert main([str(tmp_path / "runs"), "--wandb"]) == 0
    (second,) = (tmp_path / "runs/report/wandb").glob("offline-run-*")
    assert first.name.rpartition("-run-")[2].partition("-")[2] == second.name.rpartition("-run-")[2].partition("-")[2]
    assert not (second / "debris").exists()


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "../../x", "=cmd|' /C calc'!A0", "名" * 200, "\u202egnp"]
)
def test_names_are_fit_for_files_and_artifacts(tmp_path, name):
    write(tmp_path / "runs", make_job(experiment=name, row=name, accuracy=0.9, ratio=0.25, seed=len(name)))
    assert main([str(tmp_path / "runs"), "--wandb"]) == 0
    report = tmp_path / "runs/report"
    (artifact,) = wandb_artifacts(report, "model")
    assert artifact.isascii()
    assert len(artifact) <= 128
    assert {key.rpartition("/")[2] for key in wandb_tables(report)} == {
        "rows",
        "front_macs_ratio_table",
        "front_latency_ms_table",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_what_cannot_be_logged_is_refused(tmp_path, capsys, monkeypatch):
    write(tmp_path / "runs", make_job())
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert main([str(tmp_path / "runs"), "--wandb"]) == 2
    assert "WANDB_MODE=sometimes is not known: offline, online or disabled" in capsys.readouterr().err
    assert main([str(tmp_path / "runs"), "--wandb", "--compare", "a", "b"]) == 2
    assert "--compare only shows two rows, and logs nothing: leave --wandb out" in capsys.readouterr().err
    monkeypatch.delenv("WANDB_MODE")

    full = shutil.disk_usage(tmp_path)._replace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: full)
        assert main([str(tmp_path / "runs"), "--wandb"]) == 2
    assert "has no room left, and files of the run may be cut: make room" in capsys.readouterr().err

    def fail(*_, **__):
        import wandb

        raise wandb.errors.CommError("no server")

    monkeypatch.setattr("wandb.init", fail)
    assert main([str(tmp_path / "runs"), "--wandb"]) == 2
    assert "lowrank-report: wandb: no server" in capsys.readouterr().err
