"""Times in a job: by the runtime, the threads and the batch sizes that were asked for, and told in its result."""

import json

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.runtime.onnxruntime import OnnxRuntime
from support.smoke import SMOKE

QUICK = [*(override for override in SMOKE if not override.startswith("latency")), "method=evaluate"]
TIMES = {"batch_size", "median_ms", "minimum_ms", "spread", "passes", "busy_beside", "memory_format", "provider"}


def test_result_tells_times_runtime_and_conditions_which_are_renewed_with_them(command, tmp_path, capsys):
    def run(*latency):
        assert command(*QUICK, "latency.seconds=0.01", *latency) == 0
        (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
        return path, Result.read(path).phases[0]

    path, plain = run()
    assert (plain.runtime["name"], plain.runtime["threads"]) == ("torch", 1)
    assert [one["batch_size"] for one in plain.latency] == [1]
    assert "one forward pass at batch 1 (cpu, torch " in capsys.readouterr().out

    path, eager = run("latency.runtime=eager", "latency.batch_size=[4,1]")
    assert eager.runtime["name"] == "eager"
    assert [one["batch_size"] for one in eager.latency] == [4, 1]
    assert set(eager.latency[0]) == set(eager.latency[1]) <= TIMES
    for one in eager.latency:
        assert one["memory_format"] in ("contiguous", "channels_last")
        assert 0 < one["minimum_ms"] <= one["median_ms"]
        assert one["spread"] >= 0
        assert one["passes"] >= 5
    assert eager.latency_ms == eager.latency[0]["median_ms"]
    assert (eager.accuracy, eager.key, eager.seconds) == (plain.accuracy, plain.key, plain.seconds)
    assert f"ms at batch 1: evaluate {eager.latency[1]['median_ms']:.3f}" in capsys.readouterr().out

    written = path.stat().st_mtime_ns
    assert run("latency.batch_size=[4,1]", "latency.runtime=eager")[0].stat().st_mtime_ns == written
    path, onnx = run("latency.runtime=onnxruntime", "latency.threads=1")
    assert (onnx.runtime["name"], onnx.runtime["threads"], onnx.key) == ("onnxruntime", 1, plain.key)


def test_job_of_an_earlier_version_stays_finished(command, tmp_path):
    assert command(*QUICK, "latency.seconds=0.01") == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    record = json.loads(path.read_text())
    for name in ("runtime", "threads"):
        del record["config"]["latency"][name]
    for name in ("runtime", "latency"):
        del record["phases"][0][name]
    del record["exports"], record["digest"]
    path.write_text(json.dumps(record))
    written = path.stat().st_mtime_ns
    assert command(*QUICK, "latency.seconds=0.01") == 0
    assert path.stat().st_mtime_ns == written
    assert Result.read(path).phases[0].latency_ms == record["phases"][0]["latency_ms"] > 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("latency.runtime=onnx", "latency.runtime=onnx: unknown runtime 'onnx'; known: "),
        (
            "latency.runtime=onnxruntime",
            "latency.runtime=onnxruntime: the runtime onnxruntime cannot be used here: gone",
        ),
        ("latency.threads=1000", "latency.threads=1000 is more than the "),
    ],
)
def test_runtime_that_is_not_there_is_refused_before_anything_runs(
    command, tmp_path, capfd, monkeypatch, override, said
):
    monkeypatch.setattr(OnnxRuntime, "missing", classmethod(lambda kind: "gone"))
    assert command(*SMOKE, override) == 1
    assert said in capfd.readouterr().err
    assert not (tmp_path / "outputs/store").exists()


def test_network_that_a_runtime_does_not_take_has_no_time_and_a_warning(command, tmp_path, monkeypatch):
    def refuse(self, network, example):
        raise ValueError("no operator for this")

    monkeypatch.setattr(OnnxRuntime, "prepare", refuse)
    assert command(*QUICK, "latency.seconds=0.01", "latency.runtime=onnxruntime") == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    phase = Result.read(path).phases[0]
    assert phase.latency == [{"batch_size": 1, "error": "no operator for this"}]
    assert phase.latency_ms is None
    assert "no latency at batch 1: no operator for this" in phase.warnings


def test_network_in_svd_form_is_timed_once_it_is_truncated(command, tmp_path):
    job = ("method=svd_training", "method.order=[to_svd,truncate]", "method.phases.to_svd.rank=0.3")
    assert command(*QUICK[:-1], *job, "latency.seconds=0.01", "latency.runtime=onnxruntime") == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    first, last = Result.read(path).phases
    assert first.latency == [{"batch_size": 1, "error": "layers in SVD form are for training, no runtime takes them"}]
    assert last.latency_ms > 0
