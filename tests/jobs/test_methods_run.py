"""The methods that train low rank, from the command line: what they do, going on after a kill, and refusals."""

import re

import numpy as np
import pytest

from lowrank_exp.artifact import load
from lowrank_exp.training.schedules import cosine
from support.method_jobs import JOB, goes_on_alike, job

DENSE = 416520  # MACs of LeNet-5
CUTTLEFISH = (
    *JOB,
    "method=cuttlefish",
    "training.epochs=4",
    "training.schedule.warmup=0",
    "method.phases.until_settled.window=2",
    "method.phases.until_settled.threshold=100",  # everything has settled at once
    "rank.times=0.3",
)
LC = (*JOB, "method=lc", "method.phases.lc.steps=2", "method.phases.lc.multipliers=true")


@pytest.mark.parametrize(
    ("method", "phases", "trained", "penalty"),
    [
        ("trp", ["train", "factorize", "finetune"], "train", "penalty_nuclear_norm"),
        ("factorized", ["factorize", "train"], "train", "penalty_frobenius_decay"),
        ("pufferfish", ["warmup", "factorize", "train"], "warmup", None),
    ],
)
def test_method_runs(command, tmp_path, method, phases, trained, penalty):
    options = ["method.phases.warmup.epochs=1"] if method == "pufferfish" else []
    assert command(*JOB, f"method={method}", *options) == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == phases
    after = phases.index("factorize")
    assert all(phase.macs == DENSE for phase in result.phases[:after])
    assert all(0.495 <= phase.macs / DENSE <= 0.505 for phase in result.phases[after:])
    (line,) = histories[trained]
    assert [name for name in line if name.startswith("penalty_")] == ([penalty] if penalty else [])
    assert ("projected_rank" in line) == (method == "trp")


def test_factors_are_trained_at_half_the_learning_rate(command, tmp_path):
    assert command(*JOB, "method=factorized", "training.schedule=null") == 0
    _, histories, _ = job(tmp_path / "outputs")
    assert [line["learning_rate"] for line in histories["train"]] == [0.025]


def test_cuttlefish_switches_and_goes_on_within_one_training(command, tmp_path):
    assert command(*CUTTLEFISH) == 0
    result, histories, folder = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["until_settled", "factorize", "train_on"]
    assert [len(histories[name]) for name in ("until_settled", "train_on")] == [2, 2]
    rates = [line["learning_rate"] for name in ("until_settled", "train_on") for line in histories[name]]
    assert rates == pytest.approx([0.05 * cosine(epoch / 4) for epoch in range(4)])
    assert "penalty_frobenius_decay" in histories["train_on"][0]
    # The ranks are 0.3 times the stable ranks that the history ends with, where these are cheaper.
    for layer in result.layers:
        wished = int(np.ceil(0.3 * histories["until_settled"][-1][f"stable_rank_{layer.name}"]))
        assert layer.rank in (wished, None)
    assert {layer.name for layer in result.layers if layer.rank is not None} >= {"conv2", "fc1"}
    assert load(folder / "model.pt").conv2[0].out_channels == result.layers[1].rank


def test_cuttlefish_looks_at_the_layers_that_rules_allow_and_says_that_nothing_settled(command, tmp_path):
    options = ["method.phases.until_settled.threshold=1e-9", "method.phases.until_settled.latest=0.25"]
    assert command(*CUTTLEFISH, *options, "rank.rules={fc1: null, fc2: null, fc3: null}") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert any(
        "the stable ranks had not settled after 1 of 4 epochs, the latest allowed" in told for told in result.told()
    )
    assert result.status == "ok"
    curves = [name for name in histories["until_settled"][0] if name.startswith("stable_rank_")]
    assert curves == ["stable_rank_conv1", "stable_rank_conv2"]
    assert [len(histories[name]) for name in ("until_settled", "train_on")] == [1, 3]
    assert all(layer.rank is None for layer in result.layers if layer.name.startswith("fc"))


def test_cuttlefish_without_a_factor_goes_on_dense(command, tmp_path):
    assert command(*JOB, "method=cuttlefish", "training.epochs=2", "rank.times=50") == 0
    result, histories, _ = job(tmp_path / "outputs")
    assert any("had not settled" in warning for warning in result.phases[0].warnings)
    assert any("no layer is decomposed" in warning for warning in result.phases[1].warnings)
    assert result.phases[-1].macs == DENSE
    assert not any(name.startswith("penalty_") for name in histories["train_on"][0])


@pytest.mark.slow
def test_cuttlefish_goes_on_after_a_kill(command, tmp_path, monkeypatch):
    """Killed in the dense training, and when it has just settled."""
    assert command(*CUTTLEFISH, outputs=tmp_path / "alone") == 0
    goes_on_alike(command, CUTTLEFISH, tmp_path, monkeypatch, [1, 2])


def test_lc_ends_in_factors_under_the_budget(command, tmp_path):
    assert command(*LC, "finetune.epochs=2", "method.order=[train,lc]", "rank.macs=0.4", "training.epochs=3") == 0
    result, histories, folder = job(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "lc"]
    assert 0.396 <= result.phases[-1].macs / DENSE <= 0.404
    history = histories["lc"]
    assert [(line["epoch"], line["step"]) for line in history] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [line["mu"] for line in history] == [0.01, 0.01, 0.02, 0.02]
    assert [line["macs_remaining"] for line in history if "distance" in line] == [
        pytest.approx(result.phases[-1].macs / DENSE)
    ] * 2
    assert ["distance" in line for line in history] == [False, True, False, True]
    assert all(line["penalty_lc"] > 0 for line in history)
    (told,) = (told for told in result.phases[-1].warnings if "low rank" in told)
    assert told.startswith(f"the weights were still {history[-1]['distance']:.2%} of their squared length away from")
    ranks = {layer.name: layer.rank for layer in result.layers if layer.rank is not None}
    small = load(folder / "model.pt")
    assert {name: small.get_submodule(name)[0].out_channels for name in ranks if name.startswith("conv")} == {
        name: rank for name, rank in ranks.items() if name.startswith("conv")
    }
    assert {layer.reason for layer in result.layers if layer.rank is not None} == {"chosen by c_step"}


def test_lc_pulls_the_weights_to_low_rank(command, tmp_path):
    options = ["method.phases.lc.mu=3", "method.phases.lc.growth=3", "method.phases.lc.steps=3"]
    assert command(*LC, *options, "method.phases.lc.multipliers=false", "method.order=[train,lc]") == 0
    result, histories, _ = job(tmp_path / "outputs")
    distances = [line["distance"] for line in histories["lc"]]
    assert distances[0] > 3 * distances[1] > 9 * distances[2]
    assert distances[2] < 0.01
    assert not any("away from low rank" in told for told in result.phases[-1].warnings)


@pytest.mark.slow
def test_lc_goes_on_after_a_kill(command, tmp_path, monkeypatch):
    """Killed before the first C step is kept, and in the second L step."""
    options = (*LC, "finetune.epochs=2", "method.order=[train,lc]", "rank.macs=null", "rank.price=1e-6")
    assert command(*options, outputs=tmp_path / "alone") == 0
    goes_on_alike(command, options, tmp_path, monkeypatch, [3, 4])
    (left,) = (tmp_path / "killed-4" / "store").glob("lc-*/")
    assert sorted(path.name for path in left.iterdir()) == ["confusion.csv", "network.pt", "outcome.json", "plan.yaml"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=lc", "decomposition=tucker2", "rank=energy"], "conv1: the C step is an SVD, and tucker2 is none"),
        (["method=lc", "rank=greedy_eval"], "C step chooses ranks by the weights alone, and greedy_eval looks"),
        (["method=lc", "method.phases.lc.mu=0"], "method.phases.lc.mu=0 is refused: allowed is a number in"),
        (["method=lc", "method.phases.lc.growth=0.5"], "method.phases.lc.growth=0.5 is refused"),
        (["method=lc", "method.phases.lc.growth=1e9"], r"growth=1e\+09 from step .* passes 1e\+30 before"),
        (["method=lc", "method.phases.lc.steps=0"], "method.phases.lc.steps=0 is refused: allowed is a whole"),
        (["method=lc", "rank.macs=0.01"], "phase lc: the budget macs=0.01 cannot be reached: .*Raise the budget"),
        (["method=lc", "rank.rules={re\\:.*: null}", "rank=evbmf"], "no layer of this network may be decomposed"),
        (["method=cuttlefish", "method.phases.until_settled.window=1"], "window=1 is refused: .* at least 2"),
        (["method=cuttlefish", "method.phases.until_settled.latest=0"], r"latest=0 is refused: .*\(0, 1\]"),
        (["method=cuttlefish", "rank.macs=0.5"], "phase factorize: the stable_rank policy takes times or a budget"),
        (["method=cuttlefish", "rank.rules={conv9: null}"], "phase until_settled: .*conv9"),
        (["method=trp", "decomposition=spatial_svd", "regularizer.terms.nuclear_norm.weight=-1"], "weight=-1 is ref"),
        (["method=factorized", "decomposition=cp"], "phase train: regularizer: .* this network has none"),
        (["decomposition.linear=foo"], "decomposition: unknown decomposition 'foo'; known: .*biclustering"),
        (["method=train", "decomposition.conv=foo"], "decomposition: unknown decomposition 'foo'"),
        (["finetune.devices=1000"], r"phase finetune: devices is 1000, and on the \d+ cores"),
        (["method=lc", "finetune.devices=1000"], "phase lc: devices is 1000"),
        (["method.order=null"], "method.order=null is refused: allowed is a list"),
        (["method=pufferfish", "method.order=[train,warm]"], "method.order names the phase 'warm'"),
    ],
)  # fmt: skip
def test_mistakes_end_before_any_training(command, capsys, tmp_path, options, message):
    assert command(*JOB, *options) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list((tmp_path / "outputs").glob("store/*/outcome.json"))


def test_more_epochs_before_than_the_whole_training_has(command, capsys):
    order = "method.order=[warmup,train_on]"
    warmup = "+method.phases.warmup={_target_: lowrank_exp.phases.Train, epochs: 2, batch_size: 64, optimizer: '${training.optimizer}'}"  # noqa: E501
    assert command(*JOB, "method=cuttlefish", order, warmup) == 1
    assert "the training has 1 epochs, and the phases before have trained 2" in capsys.readouterr().err
