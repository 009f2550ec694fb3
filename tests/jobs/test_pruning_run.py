"""The methods that prune, from the command line: phases, layers, going on after a kill, and refusals."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from lowrank_exp import measure
from lowrank_exp.artifact import load
from lowrank_exp.report.cli import main
from support.method_jobs import JOB, goes_on_alike, job
from support.smoke import SMOKE

DENSE = 416520  # MACs of LeNet-5
FEW = (*JOB, "method.phases.prune.images=64")


def channels(result):
    return {layer.name: (layer.channels_before, layer.channels_after) for layer in result.layers}


@pytest.mark.slow
def test_taylor_removes_while_it_trains(command, tmp_path):
    options = ("pruning.filters=4", "pruning.updates=1", "finetune.epochs=2")
    assert command(*FEW, "method=taylor", *options) == 0
    result, histories, folder = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "prune", "finetune"]
    macs = [phase.macs for phase in result.phases]
    assert macs[0] == DENSE
    assert macs[1] == macs[2] == histories["prune"][-1]["macs"] <= 0.5 * DENSE
    small = load(folder / "model.pt")
    assert measure(small, torch.zeros(1, 1, 32, 32), seconds=0).macs == macs[2]
    after = {name: left for name, (_, left) in channels(result).items()}
    assert (small.conv1.out_channels, small.conv2.out_channels) == (after["conv1"], after["conv2"])
    assert after["conv1"] + after["conv2"] < 22
    assert (after["fc1"], after["fc2"], after["fc3"]) == (120, 84, 10)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert re.fullmatch(
        rf"pruning left {after['conv2']} of 16 filters( and {after['conv1']} inputs)?", reasons["conv2"]
    )
    assert reasons["fc2"] == "no phase decomposes it"


def test_sfp_ends_in_a_small_network_of_the_same_accuracy(command, tmp_path):
    assert command(*JOB, "method=sfp", "training.epochs=2") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["prune", "remove"]
    assert [line["silent_filters"] for line in histories["prune"]] == [5, 5]  # floor(0.3 * 6) + floor(0.3 * 16)
    assert channels(result)["conv1"] == (6, 5)
    assert channels(result)["conv2"] == (16, 12)
    masked, removed = result.phases
    assert masked.macs == DENSE
    assert removed.macs == 5 * 25 * 784 + 12 * 5 * 25 * 100 + 300 * 120 + 10080 + 840
    assert (masked.accuracy, masked.val_accuracy) == (removed.accuracy, removed.val_accuracy)
    assert removed.loss == pytest.approx(masked.loss, rel=1e-5)
    assert (result.dense.name, result.dense.macs, result.dense.accuracy) == ("initial", DENSE, None)
    assert result.beside_dense()["macs_ratio"] == removed.macs / DENSE
    assert "accuracy_change" not in result.beside_dense()


@pytest.mark.slow
def test_repr_ends_whole_or_small(command, tmp_path):
    assert command(*JOB, "method=repr", "training.epochs=2") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert [(phase.name, phase.macs) for phase in result.phases] == [("prune", DENSE)]
    assert "gradient_revived" in histories["prune"][-1]
    outputs = tmp_path / "masked"
    options = ("training.epochs=4", "pruning.S1=2", "pruning.S2=1", "pruning.N=1", "pruning.share=0.4")
    ends = ("pruning.last=masked", "method.order=[prune,remove]")
    assert command(*JOB, "method=repr", *options, *ends, outputs=outputs) == 0
    result, histories, _ = job(outputs)
    assert [line["silent_filters"] for line in histories["prune"]] == [0, 0, 8, 8]
    kept = channels(result)
    assert kept["conv1"][1] + kept["conv2"][1] == 22 - 8
    assert result.phases[0].accuracy == result.phases[1].accuracy


@pytest.mark.parametrize("pruning", ["oneshot", "agp"])
def test_masks_in_a_fine_tuning(command, tmp_path, pruning):
    every = ["pruning.every=1"] if pruning == "agp" else []
    assert command(*JOB, "method=prune", f"pruning={pruning}", "pruning/criterion=l2", *every) == 0
    result, _, _ = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "prune", "remove", "finetune"]
    assert channels(result)["conv1"] == (6, 5)
    assert channels(result)["conv2"] == (16, 12)
    assert result.phases[1].accuracy == result.phases[2].accuracy


def test_one_shot_without_any_training(command, tmp_path):
    order = "method.order=[prune,remove]"
    layers = "method.phases.prune.layers=[re:fc.*]"
    assert command(*FEW, "method=prune", order, layers, "finetune.epochs=0", "pruning/criterion=taylor") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert histories == {"prune": [], "remove": []}
    assert {name: left for name, (_, left) in channels(result).items()} == {
        "conv1": 6, "conv2": 16, "fc1": 84, "fc2": 59, "fc3": 10,
    }  # fmt: skip


def test_a_pruned_network_is_compared_with_the_one_that_the_job_began_with(command, tmp_path, capsys):
    """Not with its first phase, which has pruned it already; the dense network is measured once for all such jobs."""
    assert command(*JOB, "method=train") == 0
    trained, _, folder = job(tmp_path / "outputs")
    assert trained.dense == replace(trained.phases[0], warnings=[])
    outputs, weights = tmp_path / "pruned", f"model.weights={folder / 'model.pt'}"
    pruned = (*FEW, "method=prune", weights, "method.order=[prune,remove]", "pruning/criterion=l2")
    assert command(*pruned, outputs=outputs) == 0
    result, _, there = job(outputs)
    dense, (_, last) = result.dense, result.phases
    assert (dense.name, dense.accuracy, dense.macs) == ("initial", trained.phases[0].accuracy, DENSE)
    assert dense.class_accuracy == trained.phases[0].class_accuracy
    assert result.beside_dense() == {
        "macs_ratio": last.macs / DENSE,
        "weights_ratio": last.weights / dense.weights,
        "accuracy_change": last.accuracy - dense.accuracy,
    }
    assert (there / "confusion" / "initial.csv").is_file()
    capsys.readouterr()
    assert main([str(outputs)]) == 0
    (row,) = pd.read_csv(outputs / "report" / "results.csv").to_dict("records")
    assert row["macs_ratio_mean"] == pytest.approx(last.macs / DENSE)
    assert row["accuracy_change_mean"] == pytest.approx(last.accuracy - dense.accuracy)

    compressed = f"model.weights={there / 'model.pt'}"  # of whose dense network nobody here knows more than its shapes
    assert command(*JOB, "method=evaluate", compressed, outputs=tmp_path / "again") == 0
    again, _, _ = job(tmp_path / "again")
    assert (again.dense.macs, again.dense.accuracy) == (DENSE, None)
    assert again.beside_dense()["macs_ratio"] == last.macs / DENSE
    assert "compressed network" in capsys.readouterr().out


def test_prune_then_decompose(command, tmp_path):
    assert command(*JOB, "method=prune_decompose") == 0
    result, _, _ = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "prune", "remove", "factorize", "finetune"]
    pruned, factorized = result.phases[2].macs, result.phases[3].macs
    assert pruned == 294920
    assert 0.495 <= factorized / pruned <= 0.505
    assert channels(result)["conv2"] == (16, 12)
    (conv2,) = [layer for layer in result.layers if layer.name == "conv2"]
    assert conv2.decomposition == "spatial_svd"
    assert conv2.reason == "chosen by knapsack; pruning left 12 of 16 filters and 5 inputs"


def test_decompose_then_prune_the_ranks(command, tmp_path):
    assert command(*JOB, "method=decompose_prune", "rank=uniform", "pruning.share=0.5") == 0
    result, _, folder = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "factorize", "prune", "remove", "finetune"]
    ranks = {layer.name: layer.rank for layer in result.layers if layer.rank is not None}
    small = load(folder / "model.pt")
    assert ranks == {name: small.get_submodule(name)[0].weight.shape[0] for name in ranks}
    assert all(before == after for before, after in channels(result).values())
    assert result.phases[3].macs < result.phases[2].macs == result.phases[1].macs
    (conv2,) = [layer for layer in result.layers if layer.name == "conv2"]
    assert conv2.reason == f"chosen by uniform; pruning left {ranks['conv2']} filters of conv2.0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (
            "method=taylor",
            "pruning.filters=3",
            "pruning.updates=4",
            "finetune.epochs=3",
            "method.order=[prune,finetune]",
        ),
        ("method=repr", "training.epochs=3"),
    ],
    ids=["taylor", "repr"],
)
def test_goes_on_after_a_kill(command, tmp_path, monkeypatch, options):
    assert command(*FEW, *options, outputs=tmp_path / "alone") == 0
    goes_on_alike(command, (*FEW, *options), tmp_path, monkeypatch, [1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=taylor", "pruning.macs=0.01"], r"phase prune: Iterative: macs=0.01 cannot be reached: .*Raise macs"),
        (["method=taylor", "pruning/criterion=bn_scale", "pruning.updates=1"], "BNScale: conv1 has no batch norm"),
        (["method=taylor", "pruning.accuracy=0.9", "data.validation=0"], "prune: the accuracy that is its target"),
        (["method=taylor", "finetune.compile=true"], "compile is true, and filters shall be pruned during the fit"),
        (["method=taylor", "method.phases.prune.images=0"], "prune.images=0 is refused: .* at least 1"),
        (["method=sfp", "method.phases.prune.layers=[conv9]"], "prune: the layers to prune names the layer 'conv9'"),
        (["method=sfp", "method.phases.prune.ignored=[conv1,conv2]"], "phase prune: no filter of conv1, conv2 can be"),
        (["method=repr", "pruning.S1=20", "pruning.S2=10"], "prune: RePr: N=3 cycles of S1=20 and S2=10 do not fit"),
        (["method=prune", "pruning=agp", "pruning.end=9"], "phase prune: AGP: the share grows from epoch 0 to 9"),
    ],
)  # fmt: skip
def test_mistakes_end_before_any_training(command, capsys, tmp_path, options, message):
    assert command(*JOB, *options) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list((tmp_path / "outputs").glob("store/*/outcome.json"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["taylor", "prune_decompose", "decompose_prune"])
def test_dry_run_estimates_the_time_and_goes_on_with_the_shapes_that_are_left(command, capsys, tmp_path, method):
    assert command(*SMOKE, f"method={method}", "dry_run=true", "progress=true", "rank.metric=error") == 0
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    (prune,) = [line for line in lines if re.match(r"prune  ", line)]
    assert re.search(r"(under|about) \d", prune)
    assert re.search(r"1 epochs, |rankings, ", prune)
    if method == "prune_decompose":
        assert any(re.search(r"conv1 .* 72,240 +73\.7%", line) for line in lines)  # of 5 filters of 6
    assert not list((tmp_path / "outputs").glob("store/*/outcome.json"))


FEW_STEPS = (
    *SMOKE,
    "method=taylor",
    "method.phases.prune.images=64",
    "pruning/criterion=l2",
    "pruning.filters=1",
    "pruning.updates=7",
    "pruning.macs=0.7",
)


def test_a_target_that_the_criterion_does_not_reach_is_missed(command, tmp_path, capfd):
    """Three channels are enough where they are of the first layer; these are small ones of the second."""
    assert command(*FEW_STEPS) == 1
    result, _, folder = job(tmp_path / "outputs")
    left = result.phases[1].macs / DENSE
    assert left > 0.707
    assert (result.status, [phase.missed for phase in result.phases]) == ("missed", [False, True, False])
    assert f"{left:.4f} of the MACs remain, the target is 0.7" in result.phases[1].warnings[-1]
    assert f"missed: prune: {left:.4f}" in capfd.readouterr().err
    assert load(folder / "model.pt").conv2.out_channels < 16


def test_a_target_out_of_reach_ends_before_any_training(command, tmp_path, capfd):
    assert command(*FEW_STEPS, "pruning.macs=0.4") == 1
    told = capfd.readouterr().err
    assert "phase prune: Iterative: macs=0.4 cannot be reached: 21 steps (1 epochs of 21), 7 from one time" in told
    assert not list((tmp_path / "outputs").glob("store/train-*/network.pt"))
    assert command(*FEW_STEPS, "pruning.macs=0.4", "finetune.accumulate=3") == 1
    assert "7 steps (1 epochs of 7)" in capfd.readouterr().err
    assert command(*FEW_STEPS, "finetune.epochs=0") == 1
    assert "this one has 0 epochs" in capfd.readouterr().err


BY_TIME = (
    *FEW,
    "method=iterative",
    "pruning/criterion=l2",
    "pruning.updates=4",
    "pruning.latency=0.8",
    "latency.runtime=onnxruntime",
    "latency.batch_size=32",
)


def test_pruning_goes_on_until_the_network_takes_less_time(command, tmp_path):
    assert command(*BY_TIME, "pruning.macs=null") == 0
    result, _, _ = job(tmp_path / "outputs")
    train, prune, _ = result.phases
    assert prune.macs < train.macs
    assert prune.values["latency_left"] <= 0.8 * 1.01
    assert prune.values["latency_left"] == prune.values["latency_left_ms"] / prune.values["latency_dense_ms"]
    assert not any("of the time" in warning for warning in prune.warnings)
    assert result.config["method"]["phases"]["prune"]["latency"] == {
        "batch_size": 32,
        "runtime": "onnxruntime",
        "threads": None,
    }


def test_a_dry_run_measures_no_times(command, capsys, tmp_path, monkeypatch):
    monkeypatch.delattr("lowrank_exp.pruning.times.time_interleaved")
    assert command(*BY_TIME, "dry_run=true", "progress=true") == 0
    printed = capsys.readouterr()
    assert "without the times of networks with fewer channels" in " ".join((printed.out + printed.err).split())
