"""method=evaluate of an exported file: how good and how fast the file itself is, by its own runtime."""

import pytest
import torch
from torch import nn

from lowrank_exp import export
from lowrank_exp.data import Digits
from lowrank_exp.files.results import Result
from lowrank_exp.training import evaluate
from support.smoke import SMOKE

EVALUATE = [*(override for override in SMOKE if not override.startswith("latency")), "method=evaluate"]
TOLD = {"classes": list("0123456789"), "mean": [0.305], "std": [0.5], "channel_order": "rgb"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network on digits as they are, what it scores, and its files."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    data = Digits(mean=[0.305], std=[0.376])
    data.setup()
    folder = tmp_path_factory.mktemp("files")
    for name in ("small.onnx", "small.xml", "small.ts"):
        export(network, folder / name, torch.zeros(1, 1, 8, 8), metadata=TOLD)
    export(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), folder / "three.onnx", torch.zeros(1, 1, 8, 8))
    export(nn.Linear(8, 10), folder / "rows.onnx", torch.zeros(1, 8))
    (folder / "broken.onnx").write_bytes(b"\x80\x02]q\x00.")
    return folder, evaluate(network, data.test_loader(128)), evaluate(network, data.val_loader(128))


@pytest.mark.parametrize(("name", "runtime"), [("small.onnx", "onnxruntime"), ("small.xml", "openvino")])
def test_figures_are_those_of_the_file_by_its_runtime(command, tmp_path, capsys, files, name, runtime):
    folder, test, val = files
    job = (*EVALUATE, f"model.weights={folder / name}", "latency.seconds=0.01", "latency.batch_size=[1,4]")
    assert command(*job) == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    result = Result.read(path)
    (phase,) = result.phases
    assert (result.status, result.method, phase.name) == ("ok", "evaluate", "evaluate")
    assert (phase.accuracy, phase.val_accuracy, phase.top5) == (test.accuracy, val.accuracy, test.top5)
    assert phase.loss == pytest.approx(test.loss, rel=1e-5)
    assert (phase.macs, phase.weights, phase.parameters) == (4 * 9 * 36 + 1440, 36 + 1440, 40 + 8 + 1450)
    belongs = [folder / name, *([folder / "small.bin"] if name == "small.xml" else [])]
    assert phase.bytes == sum(file.stat().st_size for file in belongs)
    assert phase.runtime["name"] == runtime
    assert [one["batch_size"] for one in phase.latency] == [1, 4]
    assert phase.latency_ms == phase.latency[0]["median_ms"] > 0
    assert phase.warnings == [
        "macs, weights, parameters: as the file says of itself",
        "the file says std [0.5], the data have [0.376]",
    ]
    assert list(result.files) == ["confusion/evaluate.csv"]
    assert set(phase.class_accuracy) == set("0123456789")
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    assert command(*job) == 0
    assert path.stat().st_mtime_ns == written
    assert "finished already" in capsys.readouterr().out
    assert not (tmp_path / "outputs/store").exists()


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("small.onnx", ["method=decompose"], "phase train (Train) cannot be run on it. method=evaluate measures it"),
        ("small.onnx", ["export=onnx"], "it cannot be exported again. Leave export=null"),
        ("small.onnx", ["latency.runtime=eager"], "it is executed by onnxruntime, not by latency.runtime=eager"),
        ("small.onnx", ["data.image_size=9"], "image_size"),
        ("three.onnx", [], "three.onnx gives (1, 3) for 1 images, the data have 10 classes"),
        ("rows.onnx", [], "takes inputs of the shapes [(None, 8)]: images are one input, (N, C, H, W)"),
        ("broken.onnx", [], "broken.onnx cannot be read as a file of format onnx"),
        ("missing.onnx", [], "missing.onnx): set model.weights=... to a file that exists"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(command, tmp_path, capfd, files, name, overrides, said):
    assert command(*EVALUATE, f"model.weights={files[0] / name}", "latency.seconds=0", *overrides) == 1
    assert said in capfd.readouterr().err
    assert not (tmp_path / "outputs/store").exists()


def test_a_dry_run_measures_nothing(command, tmp_path, capsys, files):
    assert command(*EVALUATE, f"model.weights={files[0] / 'small.onnx'}", "dry_run=true") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "small.onnx by onnxruntime on 359 test images" in said
    assert "latency: onnxruntime " in said
    assert not list((tmp_path / "outputs").glob("**/result.json"))
