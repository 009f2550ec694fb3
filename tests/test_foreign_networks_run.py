"""Jobs with networks that other people wrote."""

import math
from pathlib import Path

import pytest
import torch
from smoke import SMOKE

from lowrank_exp import save
from lowrank_exp.models import lenet5
from lowrank_exp.results import Result


@pytest.fixture
def job(command, tmp_path):
    """A job with a network of `foreign_networks`; gives the result, or what was said where it failed."""

    def call(kind: str, *arguments: str, conf: Path = tmp_path / "conf") -> Result:
        (conf / "model").mkdir(parents=True, exist_ok=True)
        target = "_target_: foreign_networks.Net\nkind: plain\nnum_classes: ${data.num_classes}\nweights: null\n"
        (conf / "model" / "foreign.yaml").write_text(target)
        given = ("--config-dir", str(conf), "model=foreign", f"model.kind={kind}", *SMOKE, *arguments)
        status = command(*given)
        assert status == 0
        (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
        return Result.read(path)

    return call


def test_logits_that_are_nan_are_no_accuracy_of_class_0(job, tmp_path):
    (phase,) = job("logits", "method=evaluate").phases
    assert (phase.accuracy, phase.val_accuracy, phase.loss, phase.top5, phase.class_accuracy) == (None,) * 4 + ({},)
    assert phase.macs == 8 * 9 * 6 * 6 + 8 * 8 * 9 * 4 * 4 + 80
    (warning,) = phase.warnings
    assert warning == (
        "the logits of 359 of 359 test images are NaN or infinite: there is no accuracy and no loss; its weights are "
        "finite, activations overflow"
    )


@pytest.mark.parametrize("form", ["state", "model"])
def test_weights_that_are_nan_are_refused_by_name(form, command, tmp_path, capsys):
    network = lenet5()
    network.conv1.weight.data[0] = math.nan
    if form == "state":
        torch.save(network.state_dict(), tmp_path / "w.pt")
    else:
        save(network, tmp_path / "w.pt")
    assert command(*SMOKE, "method=evaluate", f"model.weights={tmp_path / 'w.pt'}") == 1
    assert "conv1.weight has 25 of 150 entries NaN or infinite" in capsys.readouterr().err


def test_what_was_taken_of_a_checkpoint_is_said_once(command, tmp_path, capsys):
    torch.save({"epoch": 3, "model_state_dict": lenet5().state_dict()}, tmp_path / "w.pt")
    assert command(*SMOKE, "method=oneshot", f"model.weights={tmp_path / 'w.pt'}") == 0
    assert capsys.readouterr().out.replace("\n", "").count(f"{tmp_path / 'w.pt'}: took model_state_dict") == 1
