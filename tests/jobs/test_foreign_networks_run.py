"""Jobs with networks that other people wrote."""

import math
from pathlib import Path

import pytest
import torch

from lowrank_exp import save
from lowrank_exp.files.results import Result
from lowrank_exp.models import lenet5
from support.smoke import SMOKE

MACS = 8 * 9 * 6 * 6 + 8 * 8 * 9 * 4 * 4 + 8 * 10  # of every network of `foreign_networks` on the digits


@pytest.fixture
def job(command, tmp_path):
    """A job with a network of `foreign_networks`, which ends with `status`; gives the result, if there is one."""

    def call(kind: str, *arguments: str, status: int = 0, conf: Path = tmp_path / "conf") -> Result | None:
        (conf / "model").mkdir(parents=True, exist_ok=True)
        target = (
            "_target_: support.foreign_networks.Net\nkind: plain\nnum_classes: ${data.num_classes}\nweights: null\n"
        )
        (conf / "model" / "foreign.yaml").write_text(target)
        assert command("--config-dir", str(conf), "model=foreign", f"model.kind={kind}", *SMOKE, *arguments) == status
        paths = sorted((tmp_path / "outputs/runs").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
        return Result.read(paths[-1]) if paths else None

    return call


def test_logits_that_are_nan_are_no_accuracy_of_class_0(job, tmp_path):
    (phase,) = job("logits", "method=evaluate").phases
    assert (phase.accuracy, phase.val_accuracy, phase.loss, phase.top5, phase.class_accuracy) == (None,) * 4 + ({},)
    assert phase.macs == MACS
    (warning,) = phase.warnings
    assert warning == (
        "the logits of 359 of 359 test images are NaN or infinite: there is no accuracy and no loss; its weights are "
        "finite, activations overflow"
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("logits", "phase train: the training loss is nan at epoch 0, step 0 of "),
        ("logits in evaluation", "phase train: the validation loss is nan at epoch 0, step 20 of 21"),
    ],
)
def test_a_loss_that_becomes_nan_fails_its_phase(kind, said, job, capsys):
    result = job(kind, "method=decompose", status=1)
    assert (result.status, result.phases) == ("failed", [])
    assert f"FloatingPointError: {said}" in result.error
    assert f"error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["state", "model"])
def test_weights_that_are_nan_are_refused_by_name(form, command, tmp_path, capsys):
    network = lenet5()
    save(network, tmp_path / "w.pt")
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    content["state_dict"]["conv1.weight"][0] = math.nan
    torch.save(content if form == "model" else content["state_dict"], tmp_path / "w.pt")
    assert command(*SMOKE, "method=evaluate", f"model.weights={tmp_path / 'w.pt'}") == 1
    said = capsys.readouterr().err
    assert "conv1.weight" in said
    assert "NaN or infinite" in said


def test_what_was_taken_of_a_checkpoint_is_said_once(command, tmp_path, capsys):
    torch.save({"epoch": 3, "model_state_dict": lenet5().state_dict()}, tmp_path / "w.pt")
    assert command(*SMOKE, "method=oneshot", f"model.weights={tmp_path / 'w.pt'}") == 0
    assert capsys.readouterr().out.replace("\n", "").count(f"{tmp_path / 'w.pt'}: took model_state_dict") == 1


def check_layers(result: Result) -> None:
    assert [phase.macs for phase in result.phases[:1]] == [MACS]
    assert [layer.name for layer in result.layers] == ["a", "b", "f"]
    assert [layer.macs_before for layer in result.layers] == [2592, 9216, 80]
    assert sum(layer.macs_after for layer in result.layers) == result.phases[-1].macs


@pytest.mark.parametrize("kind", ["coordinates", "value", "finite", "cpu", "no zeros"])
def test_networks_that_need_numbers_are_decomposed(kind, job):
    result = job(kind, "method=decompose")
    assert [phase.name for phase in result.phases] == ["train", "factorize", "finetune"]
    check_layers(result)
    assert 0.495 <= result.phases[-1].macs / MACS <= 0.505
    assert all(0.05 < phase.accuracy <= 1 for phase in result.phases)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coordinates", "no zeros"])
@pytest.mark.parametrize(("method", "below"), [("svd_training", MACS), ("taylor", 0.51 * MACS)])
def test_networks_that_need_numbers_are_truncated_and_pruned(kind, method, below, job):
    result = job(kind, f"method={method}", "pruning.updates=1", "training.epochs=2", "finetune.epochs=2")
    check_layers(result)
    assert 0.2 * MACS < result.phases[-1].macs <= below


def test_a_dry_run_of_a_network_that_needs_an_image(job, capsys):
    assert job("no zeros", "method=decompose", "dry_run=true", "progress=true", "rank.metric=error") is None
    said = capsys.readouterr().out
    assert "factorize: the plan" in said
    assert "Nothing was trained." in said


def test_a_network_that_fails_on_every_image_is_told_so(job, capsys):
    job("nothing", "method=decompose", status=1)
    said = capsys.readouterr().err
    assert (
        "the network fails on an image of shape (1, 1, 8, 8), on one of zeros and on the first of the training data "
        "(KeyError: 'nothing'): it must take a batch of images, (N, 1, 8, 8)"
    ) in said.replace("\n", " ")


def test_old_weight_norm_is_left_alone_and_the_plan_says_why(job):
    result = job("weight_norm", "method=decompose", "rank.macs=0.9463")
    check_layers(result)
    b = result.layers[1]
    assert (b.rank, b.macs_after, b.reason) == (
        None,
        9216,
        "its weight or bias is parametrized; remove the parametrization first",
    )
    assert 0.937 <= result.phases[-1].macs / MACS <= 0.956


def test_a_tensor_with_a_history_is_no_obstacle(job):
    check_layers(job("history", "method=oneshot"))


def test_what_cannot_be_copied_is_named(job, capsys):
    job("lock", "method=train", status=1)
    assert "module b (Conv2d): attribute \"locks['of'][0]\", a lock, cannot be copied" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_networks_of_another_precision(kind, job, tmp_path):
    result = job(kind, "method=decompose")
    check_layers(result)
    assert all(0.05 < phase.accuracy <= 1 and 0 < phase.loss < 10 for phase in result.phases)
    (file,) = (tmp_path / "outputs/runs").glob("*/model.pt")
    state = torch.load(file, weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values()} == {getattr(torch, kind)}


@pytest.mark.parametrize("method", ["train", "evaluate"])
def test_a_precision_in_which_a_network_cannot_be_computed_is_told_first(method, job, capsys):
    job("distances in float16", f"method={method}", status=1)
    assert "the network is torch.float16, in which cpu cannot compute it (" in capsys.readouterr().err


def test_a_frozen_network_is_decomposed_but_not_trained(job, capsys):
    job("frozen", "method=decompose", status=1)
    assert "phase train: the network has no parameter that needs a gradient" in capsys.readouterr().err
    result = job("frozen", "method=oneshot")
    check_layers(result)
    assert 0.495 <= result.phases[-1].macs / MACS <= 0.505
