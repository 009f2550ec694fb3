"""Stochastic depth and Quant-Noise from the command line."""

import re

import pytest

from lowrank_exp import load
from lowrank_exp.files.results import Result
from lowrank_exp.job.outcomes import OutcomeStore
from lowrank_exp.job.phase_keys import by_content
from lowrank_exp.models import cifar_resnet
from lowrank_exp.training.parts.stochastic_depth import StochasticDepth
from support.smoke import SMOKE

RESNET = ("model=resnet20", "model.depth=8", "model.input_size=8", "data.test=0.7")
BOTH = ("training.stochastic_depth={survival: uniform}", "training.quant_noise={phi: int8, p: 0.5}")


def result_of(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


def test_svd_training_with_both(command, tmp_path):
    assert command(*SMOKE, *RESNET, "method=svd_training", *BOTH, "finetune.quant_noise={phi: proxy, p: 0.1}") == 0
    result, folder = result_of(tmp_path / "outputs")
    assert [phase.name for phase in result.phases][:4] == ["to_svd", "train", "sparse", "truncate"]
    assert result.phases[-1].accuracy > 0.5
    phases = result.config["method"]["phases"]
    assert phases["train"]["stochastic_depth"] == phases["sparse"]["stochastic_depth"] == {"survival": "uniform"}
    assert phases["finetune"]["stochastic_depth"] is None
    store = OutcomeStore(tmp_path / "outputs" / "store", print)
    sparse = next(phase for phase in result.phases if phase.name == "sparse")
    history = store.read("sparse", sparse.key).history
    assert sparse.val_accuracy == pytest.approx(
        history[-1]["val_accuracy"]
    )  # of the file, and of the network in the fit
    small = load(folder / "model.pt")
    StochasticDepth().check(small)
    plain = {name for name in cifar_resnet(depth=8).state_dict() if "bn" in name}
    assert plain <= set(small.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.stochastic_depth={}"], "phase train: stochastic_depth: this network has no residual blocks"),
        (["training.stochastic_depth={last: 2}"], "training.stochastic_depth.last=2 is refused"),
        (["training.quant_noise={phi: int8, p: 0.5, layers: [conv9]}"], "quant_noise names the layer 'conv9'"),
        (["training.quant_noise={phi: int8}"], "training.quant_noise.p is missing"),
    ],
)
def test_mistakes_end_before_any_training(command, capsys, options, message, tmp_path):
    assert command(*SMOKE, "method=train", *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "outputs").rglob("last.ckpt"))


def test_outcomes_stored_before_there_were_these_options_are_found():
    """What decides a phase's key is without them where they are not used."""
    train = {"epochs": 1, "schedule": None}
    assert by_content(train | {"stochastic_depth": None, "quant_noise": None}) == train
    used = train | {"stochastic_depth": {}, "quant_noise": {"phi": "int8", "p": 0.5}}
    assert by_content(used) == used


def test_dry_run(command, capsys):
    assert command(*SMOKE, *RESNET, "method=train", *BOTH, "dry_run=true") == 0
    assert re.search(r"^train +(under|about) ", capsys.readouterr().out, re.MULTILINE)
