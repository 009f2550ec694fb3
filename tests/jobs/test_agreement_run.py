"""The phase that compares criteria with the oracle: its figures, its files, going on after a kill, and refusals."""

import csv
import json
import re

import pytest
import torch
from scipy.stats import spearmanr

from lowrank_exp.artifact import load
from lowrank_exp.phases import agree as agreement_phase
from lowrank_exp.training import evaluate
from support.method_jobs import job
from support.smoke import SMOKE

JOB = (*SMOKE, "data.test=0.8", "method=agree", "training.epochs=2", "method.phases.agree.images=30")
CONVOLUTIONS = {"conv1": 6, "conv2": 16}
NAMES = {
    *("weight", "weight_l1", "activation_mean", "activation_std", "apoz", "obd", "taylor", "taylor_mean_first"),
    *("gradient", "geometric_median", "orthogonality", "random"),
}


def stored(outputs, name):
    (path,) = (outputs / "store").glob(f"agree-*/{name}")
    return path


def test_figures_are_spearmans_correlations_with_measured_losses(command, tmp_path):
    assert command(*JOB) == 0
    result, _, folder = job(tmp_path / "outputs")
    train, agree = result.phases
    assert (train.name, agree.name, train.values) == ("train", "agree", {})
    assert (agree.accuracy, agree.macs) == (train.accuracy, train.macs)
    forms = ("per_layer", "raw", "l2")
    assert set(agree.values) == {f"spearman_{name}_{form}" for name in NAMES for form in forms}

    heading, *lines = map(json.loads, stored(tmp_path / "outputs", "oracle.jsonl").read_text().splitlines())
    assert heading["layers"] == CONVOLUTIONS
    network = load(folder / "model.pt")
    weights = {name: network.get_submodule(name).weight.detach().double() for name in CONVOLUTIONS}
    change = {name: [abs(x["loss"] - heading["whole"]) for x in lines if x["layer"] == name] for name in CONVOLUTIONS}
    squares = {name: w.square().mean(dim=(1, 2, 3)) for name, w in weights.items()}
    within = [spearmanr(squares[name], change[name]).statistic for name in CONVOLUTIONS]
    every = [x for name in CONVOLUTIONS for x in change[name]]
    normed = torch.cat([s / s.norm() for s in squares.values()])
    wanted = [
        sum(within) / 2,
        spearmanr(torch.cat(list(squares.values())), every).statistic,
        spearmanr(normed, every).statistic,
    ]
    assert [agree.values[f"spearman_weight_{form}"] for form in forms] == pytest.approx(wanted, abs=1e-9)

    rows = list(csv.DictReader(stored(tmp_path / "outputs", "agreement.csv").open()))
    assert {row["criterion"] for row in rows} == NAMES
    (weight,) = [row for row in rows if row["criterion"] == "weight"]
    assert [float(weight[name]) for name in CONVOLUTIONS] == pytest.approx(within, abs=1e-9)


def test_a_killed_oracle_goes_on(command, tmp_path, monkeypatch):
    assert command(*JOB, outputs=tmp_path / "alone") == 0
    calls = []

    class KilledError(BaseException):
        pass

    def dies(network, *arguments):
        calls.append(network)
        if len(calls) == 9:
            raise KilledError
        return evaluate(network, *arguments)

    outputs = tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(agreement_phase, "evaluate", dies)
        with pytest.raises(KilledError):
            command(*JOB, outputs=outputs)
    assert len(stored(outputs, "oracle.jsonl").read_text().splitlines()) == 8  # the heading, and seven filters
    counted = []
    with monkeypatch.context() as patched:
        patched.setattr(agreement_phase, "evaluate", lambda *arguments: counted.append(1) or evaluate(*arguments))
        assert command(*JOB, outputs=outputs) == 0
    assert len(counted) == 1 + 22 - 7
    alone, again = job(tmp_path / "alone")[0], job(outputs)[0]
    assert again.phases[-1].values == alone.phases[-1].values
    losses, expected = (stored(folder, "oracle.jsonl").read_text() for folder in (outputs, tmp_path / "alone"))
    assert losses == expected


@pytest.mark.slow
def test_batch_norms_are_looked_at_where_there_are_some(command, tmp_path):
    options = ("model=resnet20", "model.input_size=8", "training.epochs=1")
    assert command(*JOB, *options, "method.phases.agree.layers=[conv1,layer3.1.conv1,linear]") == 0
    result, _, folder = job(tmp_path / "outputs")
    network = load(folder / "model.pt")
    _, *lines = map(json.loads, stored(tmp_path / "outputs", "oracle.jsonl").read_text().splitlines())
    whole = json.loads(stored(tmp_path / "outputs", "oracle.jsonl").read_text().splitlines()[0])["whole"]
    change = [abs(line["loss"] - whole) for line in lines if line["layer"] != "linear"]
    scales = torch.cat([network.bn1.weight, network.layer3[1].bn1.weight]).detach().double().abs()
    wanted = spearmanr(scales, change).statistic
    assert result.phases[1].values["spearman_bn_scale_raw"] == pytest.approx(wanted, abs=1e-9)
    rows = list(csv.DictReader(stored(tmp_path / "outputs", "agreement.csv").open()))
    (of_scale,) = [row for row in rows if row["criterion"] == "bn_scale"]
    assert of_scale["linear"] == ""
    assert result.phases[1].values["spearman_taylor_raw"] != pytest.approx(wanted)


def test_layers_images_and_criteria_can_be_chosen(command, tmp_path):
    options = ("method.phases.agree.layers=[conv2,re:fc1]", "method.phases.agree.score_on=train")
    assert command(*JOB, *options, "~method.phases.agree.criteria.random") == 0
    result, _, _ = job(tmp_path / "outputs")
    assert "spearman_random_raw" not in result.phases[1].values
    heading = json.loads(stored(tmp_path / "outputs", "oracle.jsonl").read_text().splitlines()[0])
    assert heading["layers"] == {"conv2": 16, "fc1": 120}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.phases.agree.score_on=test"], "score_on=test is refused: allowed is one of val, train"),
        (["method.phases.agree.images=0"], "agree.images=0 is refused"),
        (["method.phases.agree.layers=[conv9]"], "phase agree: the layers to compare names the layer 'conv9'"),
        (["model=lenet_300_100"], "phase agree: this network has no convolution: name the layers"),
        (["data.validation=0"], "phase agree: the oracle measures losses on validation images, and there"),
        (["method.phases.agree.criteria=null"], "criteria=null is refused"),
    ],
)
def test_mistakes_are_told(command, capsys, options, message):
    assert command(*JOB, *options) == 1
    assert re.search(re.escape(message), " ".join(capsys.readouterr().err.split()))
