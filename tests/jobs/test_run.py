"""One job from the command line to its files."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lowrank_exp import load, measure
from lowrank_exp.data import Digits
from lowrank_exp.files.results import Result
from lowrank_exp.training import evaluate
from support.smoke import SMOKE


def only_job(outputs: Path, experiment: str = "runs") -> Path:
    (folder,) = (path.parent for path in (outputs / experiment).glob("*/result.json"))
    return folder


@pytest.mark.slow
def test_default_job_ends_at_half_its_macs_and_above_95_percent(command, tmp_path, capsys):
    assert command("logger=none", "progress=false", "latency.seconds=0.01") == 0
    folder = only_job(tmp_path / "outputs")
    result = Result.read(folder / "result.json")
    assert (result.status, result.error, result.method, result.seed) == ("ok", None, "decompose", 0)
    assert result.fingerprint == folder.name
    assert [phase.name for phase in result.phases] == ["train", "factorize", "finetune"]  # LeNet-5 has no batch norm
    dense, _, final = result.phases
    assert dense.macs == 416_520  # 117600 + 240000 + 48000 + 10080 + 840
    assert 0.495 * dense.macs <= final.macs <= 0.505 * dense.macs
    assert 0.95 <= final.accuracy <= 1
    assert [layer.name for layer in result.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert sum(layer.macs_after for layer in result.layers) == final.macs
    assert [layer.channels_after for layer in result.layers] == [6, 16, 120, 84, 10]
    assert all(phase.latency_ms > 0 for phase in result.phases)
    assert result.environment["threads"] == 1
    printed = capsys.readouterr().out
    assert str(folder / "result.json") in printed.replace("\n", "")
    assert f"{final.macs:,}" in printed


def test_reported_accuracy_is_that_of_the_file(command, tmp_path):
    assert command(*SMOKE) == 0
    folder = only_job(tmp_path / "outputs")
    final = Result.read(folder / "result.json").phases[-1]
    network, data = load(folder / "model.pt"), Digits(mean=[0.305], std=[0.376])
    data.adapt(network.input_shape)
    data.setup()
    scores = evaluate(network, data.test_loader(512))
    assert scores.accuracy == final.accuracy
    assert measure(network, torch.zeros(1, 1, 32, 32), seconds=0).macs == final.macs
    plan = yaml.safe_load((folder / "plan.yaml").read_text())
    assert plan["layers"]["conv2"]["rank"] == network.conv2[0].out_channels

    weights = f"model.weights={folder / 'model.pt'}"
    assert command(*SMOKE, "method=evaluate", weights) == 0
    again = [Result.read(p) for p in (tmp_path / "outputs/runs").glob("*/result.json")]
    (evaluated,) = (result for result in again if result.method == "evaluate")
    assert evaluated.phases[0].accuracy == final.accuracy
    assert evaluated.phases[0].macs == final.macs
    assert [layer.rank for layer in evaluated.layers] == [
        plan["layers"][layer.name]["rank"] for layer in evaluated.layers
    ]


def test_oneshot_compresses_given_weights_without_training(command, tmp_path):
    assert command(*SMOKE, "method=train") == 0
    trained = only_job(tmp_path / "outputs")
    assert command(*SMOKE, "method=oneshot", f"model.weights={trained / 'model.pt'}", "rank=energy") == 0
    results = [Result.read(path) for path in (tmp_path / "outputs/runs").glob("*/result.json")]
    (oneshot,) = (result for result in results if result.method == "oneshot")
    assert [phase.name for phase in oneshot.phases] == ["evaluate", "factorize"]
    assert oneshot.phases[0].accuracy == Result.read(trained / "result.json").phases[0].accuracy
    assert 0.495 <= oneshot.phases[1].macs / oneshot.phases[0].macs <= 0.505


def test_plan_of_one_job_replays_in_another(command, tmp_path):
    assert command(*SMOKE, "rank=uniform") == 0
    first = only_job(tmp_path / "outputs")
    assert command(*SMOKE, "rank=fixed", f"rank.ranks={first / 'plan.yaml'}", outputs=tmp_path / "second") == 0
    second = only_job(tmp_path / "second")
    ranks = [[layer.rank for layer in Result.read(job / "result.json").layers] for job in (first, second)]
    assert ranks[0] == ranks[1]
    assert ranks[0] == [2, 10, 47, 26, 5]


def test_order_of_overrides_is_the_same_job_and_a_finished_job_is_not_run_again(command, tmp_path, capsys):
    assert command(*SMOKE, "seed=3", "rank.macs=0.4") == 0
    folder = only_job(tmp_path / "outputs")
    written = (folder / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert command("rank.macs=0.4", *SMOKE, "seed=3") == 0
    assert only_job(tmp_path / "outputs") == folder
    assert (folder / "result.json").stat().st_mtime_ns == written
    assert "finished already" in capsys.readouterr().out


def test_cached_and_fresh_phases_give_the_same_numbers(command, tmp_path):
    outputs = tmp_path / "outputs"
    assert command(*SMOKE, "rank.macs=0.6") == 0
    assert command(*SMOKE, "rank.macs=0.4") == 0  # takes the dense network from the store
    assert len(list((outputs / "store").glob("train-*/network.pt"))) == 1
    assert command(*SMOKE, "rank.macs=0.4", outputs=tmp_path / "fresh") == 0

    def figures(root: Path, macs: float) -> list:
        results = [Result.read(path) for path in (root / "runs").glob("*/result.json")]
        (result,) = (r for r in results if r.config["rank"]["macs"] == macs)
        return [(p.name, p.key, p.accuracy, p.loss, p.val_accuracy, p.macs) for p in result.phases]

    assert figures(outputs, 0.4) == figures(tmp_path / "fresh", 0.4)
    store, fresh = (
        {p.parent.name: torch.load(p) for p in (root / "store").glob("*/network.pt")}
        for root in (outputs, tmp_path / "fresh")
    )
    for name, content in fresh.items():
        assert all(torch.equal(value, store[name]["state_dict"][key]) for key, value in content["state_dict"].items())


def test_damaged_outcome_is_computed_again(command, tmp_path):
    outputs = tmp_path / "outputs"
    assert command(*SMOKE, "method=train") == 0
    first = Result.read(only_job(outputs) / "result.json")
    (outcome,) = (outputs / "store").glob("train-*/outcome.json")
    outcome.write_text(outcome.read_text()[:100])
    shutil.rmtree(only_job(outputs))
    assert command(*SMOKE, "method=train") == 0
    assert Result.read(only_job(outputs) / "result.json").phases[0].loss == first.phases[0].loss


@pytest.mark.parametrize(
    "model",
    [
        "resnet20",
        "resnet20 model.shortcut=b",
        "resnet56 model.depth=null model.blocks_per_stage=1 model.block=bottleneck",
    ],
)
def test_networks_with_batch_norm_are_recalibrated(command, tmp_path, model):
    choice, *options = f"model={model}".split()
    arguments = ["method=oneshot", "decomposition=channel_svd", "decomposition.linear=null", "rank.over=conv"]
    assert command(*SMOKE, choice, *options, *arguments, "evaluation.batch_size=64", "data.image_size=32") == 0
    result = Result.read(only_job(tmp_path / "outputs") / "result.json")
    assert [phase.name for phase in result.phases] == ["evaluate", "factorize", "recalibrate"]
    convolutions = [layer for layer in result.layers if "linear" not in layer.name]
    after, before = (sum(getattr(layer, f"macs_{when}") for layer in convolutions) for when in ("after", "before"))
    assert 0.495 <= after / before <= 0.505
    assert result.layers[-1].reason == "no decomposition is configured for linear layers"


def test_own_network_and_own_configuration_folder(command, tmp_path):
    conf = tmp_path / "conf"
    (conf / "model").mkdir(parents=True)
    (conf / "model/mine.yaml").write_text(
        "_target_: torch.nn.Sequential\n_args_:\n- _target_: torch.nn.Flatten\n"
        "- {_target_: torch.nn.Linear, in_features: 64, out_features: 32}\n- _target_: torch.nn.ReLU\n"
        "- {_target_: torch.nn.Linear, in_features: 32, out_features: 10}\n"
    )
    assert command("--config-dir", str(conf), *SMOKE, "model=mine", "rank=uniform") == 0
    result = Result.read(only_job(tmp_path / "outputs") / "result.json")
    assert result.phases[0].macs == 64 * 32 + 32 * 10
    assert {layer.name: layer.decomposition for layer in result.layers} == {"1": "linear_svd", "3": "linear_svd"}


def test_interrupted_result_is_plain_json(command, tmp_path):
    assert command(*SMOKE) == 0
    record = json.loads((only_job(tmp_path / "outputs") / "result.json").read_text())
    assert {
        "status",
        "fingerprint",
        "experiment",
        "row",
        "seed",
        "method",
        "choices",
        "control",
        "config",
        "phases",
        "layers",
        "environment",
        "error",
        "warnings",
        "files",
        "skipped",
        "exports",
        "dense",
        "departures",
        "digest",
    } == set(record)


def test_without_validation_images(command, tmp_path):
    assert command(*SMOKE, "data.validation=0") == 0
    result = Result.read(only_job(tmp_path / "outputs") / "result.json")
    assert [phase.val_accuracy for phase in result.phases] == [None, None, None]
    assert 0 < result.phases[-1].accuracy < 1


def test_changed_constructor_is_not_taken_for_the_stored_network(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: my_own_network.build\n")
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, {0}), "
    source += "nn.Linear({0}, 10))\n"
    macs = []
    for width in (32, 48):
        (tmp_path / "my_own_network.py").write_text(source.format(width))
        monkeypatch.delitem(sys.modules, "my_own_network", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        assert command("--config-dir", str(tmp_path / "conf"), *SMOKE, "model=mine", "method=train") == 0
        macs.append(Result.read(only_job(tmp_path / "outputs") / "result.json").phases[0].macs)
    assert macs == [64 * 32 + 32 * 10, 64 * 48 + 48 * 10]


def test_finished_job_measures_a_latency_that_it_lacks(command, tmp_path):
    assert command(*SMOKE, "method=train") == 0
    path = only_job(tmp_path / "outputs") / "result.json"
    before = Result.read(path).phases[0]
    assert before.latency_ms is None
    assert command(*(o for o in SMOKE if not o.startswith("latency")), "method=train", "latency.seconds=0.01") == 0
    after = Result.read(path).phases[0]
    assert after.latency_ms > 0
    assert (after.accuracy, after.key, after.seconds) == (before.accuracy, before.key, before.seconds)


def test_decomposing_twice_tells_both_ranks(command, tmp_path):
    assert command(*SMOKE, "method=oneshot", "rank=uniform", "rank.macs=0.7") == 0
    first = only_job(tmp_path / "outputs")
    (told,) = Result.read(first / "result.json").told()
    assert "images are recognised, which is chance for 10 classes" in told
    assert told.endswith("Nothing has trained this network: set model.weights, or choose a method that trains")
    arguments = ("method=oneshot", f"model.weights={first / 'model.pt'}", "rank=fixed", "rank.ranks={fc1.0: 20}")
    assert command(*SMOKE, *arguments, outputs=tmp_path / "second") == 0
    layers = {layer.name: layer for layer in Result.read(only_job(tmp_path / "second") / "result.json").layers}
    rank = Result.read(first / "result.json").layers[2].rank
    assert layers["fc1"].rank == [rank, 20]
    assert layers["fc1"].reason == f"decomposed more than once: fc1 at rank {rank}, fc1.0 at rank 20"
    assert layers["fc1"].macs_after == 400 * 20 + 20 * rank + rank * 120
    assert layers["conv1"].reason == "as in the weights file"
