"""A job leaves its network as a file for other runtimes, compared with it and told in the result."""

import json

import numpy as np
import onnxruntime
import pytest

import lowrank_exp.export.write
from lowrank_exp.data import Digits
from lowrank_exp.export import read_metadata
from lowrank_exp.files.results import Result
from support.smoke import SMOKE

JOB = (*SMOKE, "rank=energy")


def only_job(outputs):
    (folder,) = (path.parent for path in (outputs / "runs").glob("*/result.json"))
    return folder


def test_file_has_the_reported_accuracy_and_is_made_afterwards_without_training(command, tmp_path, capsys, monkeypatch):
    outputs = tmp_path / "outputs"
    assert command(*JOB, "export=onnx") == 0
    folder = only_job(outputs)
    result = Result.read(folder / "result.json")
    assert sorted(result.files) == sorted(
        ["model.pt", "plan.yaml", "model.onnx", *(f"confusion/{phase.name}.csv" for phase in result.phases)]
    )
    (told,) = result.exports
    assert (told["format"], told["files"], told["images"], told["of"]) == ("onnx", ["model.onnx"], 143, "validation")
    assert (told["opset"], told["equal_predictions"], told["subnormals"]) == (20, 1.0, 0)
    assert told["bytes"] == (folder / "model.onnx").stat().st_size
    assert 0 <= told["difference"] <= 1e-5
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{folder / 'model.onnx'} (onnx opset 20" in said
    assert "on 143 validation images outputs differ by" in said

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    data = Digits(mean=[0.305], std=[0.376])
    data.adapt(tuple(given.shape[1:]))
    data.setup()
    right = [
        session.run(None, {given.name: images.numpy()})[0].argmax(1) == labels.numpy()
        for images, labels in data.test_loader(50)
    ]
    assert np.concatenate(right).mean() == result.phases[-1].accuracy
    metadata = read_metadata(folder / "model.onnx")
    expected = {"fingerprint": folder.name, "accuracy": result.phases[-1].accuracy, "macs": result.phases[-1].macs}
    expected |= {"classes": list("0123456789"), "mean": [0.305], "std": [0.376], "channel_order": "rgb"}
    assert {name: metadata[name] for name in expected} == expected

    # Another format of a finished job: only the file is made; one that was damaged is made again.
    (outputs / "store").rename(tmp_path / "gone")
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert command(*JOB, "export=[onnx,torchscript]") == 0
    both = Result.read(folder / "result.json")
    assert [one["files"] for one in both.exports] == [["model.onnx"], ["model.ts"]]
    assert (both.exports[0], both.phases) == (told, result.phases)
    assert (folder / "model.onnx").stat().st_mtime_ns == before
    assert not list((outputs / "store").glob("*/network.pt"))
    (folder / "model.onnx").write_bytes(b"damaged")
    assert command(*JOB, "export=onnx") == 0
    again = Result.read(folder / "result.json")
    assert ([one["format"] for one in again.exports], again.phases) == (["torchscript", "onnx"], result.phases)
    assert read_metadata(folder / "model.onnx") == metadata

    # A file that cannot be made: everything else stays, and the job says what it missed.
    (folder / "model.onnx").unlink()
    monkeypatch.setattr(lowrank_exp.export.write, "MOST", -1.0)
    assert command(*JOB, "export=onnx") == 1
    missed = Result.read(folder / "result.json")
    assert (missed.status, missed.phases) == ("missed", result.phases)
    assert [one.get("files") for one in missed.exports] == [["model.ts"], None]
    assert "export=onnx: " in missed.told()[-1]
    assert "at most -1e+00 is allowed" in missed.told()[-1]
    assert not (folder / "model.onnx").exists()
    monkeypatch.undo()
    assert command(*JOB, outputs=outputs) == 0
    assert Result.read(folder / "result.json").status == "ok"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["export=onxx"], "export=onxx is not a format of files; there are: onnx, pt2, torchscript, openvino"),
        (
            ["export=onnx", "method=svd_training", "method.order=[to_svd,sparse]"],
            "export=onnx, of the network after the last phase: conv1, conv2, fc1",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_trained(command, tmp_path, capfd, overrides, said):
    assert command(*SMOKE, *overrides) == 1
    assert said in capfd.readouterr().err
    assert not (tmp_path / "outputs/store").exists()


def test_dry_run_tells_what_would_be_timed_and_exported(command, tmp_path, capsys):
    timed = ("latency.runtime=onnxruntime", "latency.batch_size=[1,8]", "latency.seconds=0.5")
    assert command(*SMOKE[:-1], "method=evaluate", "dry_run=true", "export=[onnx]", *timed) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "latency of every phase: onnxruntime " in said
    assert ", 1 thread, at its best, batch 1 and 8, 0.5 s each" in said
    assert "model.onnx, compared on validation images" in said
    assert not list((tmp_path / "outputs").glob("**/model.onnx"))


def test_exported_file_of_another_network_does_not_stay(command, tmp_path):
    """The same configuration with other weights in its file is the same job, and its old export is not its network."""
    weights = tmp_path / "weights.pt"
    trained = {}
    for seed in (0, 1):
        assert command(*SMOKE, "method=evaluate", f"seed={seed}", outputs=tmp_path / str(seed)) == 0
        trained[seed] = only_job(tmp_path / str(seed)) / "model.pt"
    job = (*SMOKE, "method=evaluate", f"model.weights={weights}")
    weights.write_bytes(trained[0].read_bytes())
    assert command(*job, "export=torchscript") == 0
    folder = only_job(tmp_path / "outputs")
    weights.write_bytes(trained[1].read_bytes())
    assert command(*job) == 0
    assert not (folder / "model.ts").exists()
    assert json.loads((folder / "result.json").read_text())["exports"] == []
