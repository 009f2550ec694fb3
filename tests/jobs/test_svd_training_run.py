"""SVD training from the command line to plain small layers."""

import pytest
import torch

from lowrank_exp import load
from lowrank_exp.files.results import Result
from lowrank_exp.models import lenet5
from support.smoke import SMOKE

JOB = (*SMOKE, "method=svd_training")


def result_and_folder(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


def test_from_scratch_to_plain_layers(command, tmp_path):
    assert command(*JOB, "method.phases.truncate.energy=0.3") == 0
    result, folder = result_and_folder(tmp_path / "outputs")
    macs = {phase.name: phase.macs for phase in result.phases}
    assert list(macs) == ["to_svd", "train", "sparse", "truncate", "finetune"]
    assert macs["to_svd"] == macs["train"] == macs["sparse"] == 416520  # of the dense layers
    assert macs["truncate"] == macs["finetune"] < 416520
    assert sum(layer.macs_after for layer in result.layers) == macs["finetune"]
    assert {layer.reason for layer in result.layers if layer.rank} == {"energy removed up to 0.3, resvd"}
    small = load(folder / "model.pt")
    assert {type(module).__name__ for module in small.modules() if not list(module.children())} <= {
        "Conv2d", "Linear", "ReLU", "MaxPool2d", "Flatten", "Tanh", "AvgPool2d",
    }  # fmt: skip


def test_conversion_keeps_what_the_network_computes(command, tmp_path):
    torch.manual_seed(0)
    network = lenet5()
    torch.save(network.state_dict(), tmp_path / "dense.pt")
    options = [f"model.weights={tmp_path / 'dense.pt'}", "method.order=[to_svd]", "decomposition=channel_svd"]
    assert command(*JOB, *options) == 0
    result, folder = result_and_folder(tmp_path / "outputs")
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load(folder / "model.pt").eval()(images), network.eval()(images), rtol=0, atol=1e-5)
    assert {(layer.decomposition, layer.reason) for layer in result.layers} == {
        ("channel_svd", "in SVD form, not truncated"),
        ("linear_svd", "in SVD form, not truncated"),
    }


def test_a_rank_policy_truncates(command, tmp_path):
    options = [
        "method.phases.truncate.energy=null",
        "method.phases.truncate.rank=${rank}",
        "rank.macs=0.4",
        "rank.metric=error",
    ]
    assert command(*JOB, *options, "regularizer=svd_l1") == 0
    result, _ = result_and_folder(tmp_path / "outputs")
    assert 0.396 <= result.phases[-1].macs / 416520 <= 0.404
    assert "l1" in result.config["method"]["phases"]["sparse"]["regularizer"]["terms"]


def test_penalties_are_logged(command, tmp_path):
    from lowrank_exp.job.outcomes import OutcomeStore

    assert command(*JOB) == 0
    result, _ = result_and_folder(tmp_path / "outputs")
    store = OutcomeStore(tmp_path / "outputs" / "store", print)
    histories = {phase.name: store.read(phase.name, phase.key).history for phase in result.phases}
    assert {"penalty_orthogonality", "penalty_hoyer"} <= histories["sparse"][0].keys()
    assert "penalty_hoyer" not in histories["train"][0]
    assert not any(name.startswith("penalty_") for name in histories["finetune"][0])
    assert 0 < histories["train"][0]["penalty_orthogonality"] < 1  # the SVD of a drawn weight starts at 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["decomposition=cp"], "phase to_svd: conv1 cannot be put into SVD form: cp is not a decomposition by one SVD"),
        (["method.phases.truncate.threshold=0.1"], "give exactly one of ranks, energy and threshold"),
        (["method.order=[train]"], "phase train: regularizer: orthogonality: .* this network has none"),
        (["method.phases.to_svd.rank=0"], "method.phases.to_svd.rank=0 is refused"),
    ],
)
def test_mistakes_end_before_any_training(command, capsys, options, message):
    assert command(*JOB, *options) == 1
    import re

    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_dry_run(command, capsys, tmp_path):
    assert command(*JOB, "dry_run=true") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "train has not run" in told
    assert all(phase in told for phase in ("to_svd", "sparse", "truncate", "finetune"))
    assert not (tmp_path / "outputs" / "runs").exists() or not list(
        (tmp_path / "outputs" / "runs").glob("*/result.json")
    )
