"""Every decomposition of the configuration, from the command line to the file and back."""

import json

import pytest
import torch
import yaml

from lowrank_exp import load
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.files.results import Result
from support.method_jobs import KilledError, fitted_layers, same_networks
from support.smoke import SMOKE

# LeNet-5: conv1 1 -> 6 and conv2 6 -> 16, 5 x 5; linear layers 400 -> 120 -> 84 -> 10.
RANKS = {
    "biclustering": "{conv2: 3}",
    "monochromatic": "{conv1: 3, conv2: 4}",
    "tensor_train": "{conv1: [1, 3, 4], conv2: [3, 6, 6]}",
    "tucker2": "{conv1: [1, 3], conv2: [3, 6], fc1: 20}",
    "product_quantization": "{conv1: 4, conv2: 16, fc1: 32}",
    "grouped_channel_svd": "{conv2: 3, fc2: 5}",
    "linear_svd": "{fc1: 20, fc2: 5}",
}
CHOOSING = {"alds": "alds", "fastest": "knapsack", "joined": "knapsack"}  # several, for a policy that chooses
NAMES = sorted({path.stem for path in (CONF / "decomposition").glob("*.yaml")} - set(CHOOSING))


def only_result(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


@pytest.mark.filterwarnings("ignore:conv.. rank 3 costs more than the dense layer")
@pytest.mark.parametrize("name", NAMES)
def test_a_job_with_ranks_by_hand(name, command, tmp_path):
    ranks = RANKS.get(name, "{conv1: 2, conv2: 3}")
    options = [f"decomposition={name}", "rank=fixed", f"rank.ranks={ranks}", "method.order=[factorize,finetune]"]
    assert command(*SMOKE, *options) == 0
    result, folder = only_result(tmp_path / "outputs")
    network = load(folder / "model.pt")
    changed = {layer.name: layer for layer in result.layers if layer.rank is not None}
    assert {n: layer.rank for n, layer in changed.items()} == yaml.safe_load(ranks)
    assert {layer.decomposition for layer in changed.values()} <= {name, "linear_svd"}
    phase = result.phases[-1]
    assert phase.bytes == (folder / "model.pt").stat().st_size
    assert phase.weights == sum(layer.weights_after for layer in result.layers)
    packed = 2 + 48 + 7500  # 6 x 2, 96 x 4 and 12,000 x 5 bits; of weights that are not trained a coder saves nothing
    indices = {"indices_packed_bytes": packed, "indices_file_bytes": packed}
    assert phase.values == (indices if name == "product_quantization" else {})
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert json.loads((folder / "result.json").read_text())["layers"]


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ("product_quantization", "linear_svd", "slice_wise_svd")]
)
def test_a_budget_is_met_with_every_decomposition(name, command, tmp_path):
    budget = 0.565 if name == "monochromatic" else 0.6  # its ranks are divisors: few
    rules = ["rank.rules={conv1: null}"] if name in ("biclustering", "grouped_channel_svd") else []
    assert command(*SMOKE, f"decomposition={name}", f"rank.macs={budget}", "method.order=[factorize]", *rules) == 0
    result, _ = only_result(tmp_path / "outputs")
    remaining = result.phases[-1].macs / sum(layer.macs_before for layer in result.layers)
    assert 0.99 * budget <= remaining <= 1.01 * budget


@pytest.mark.parametrize("name", CHOOSING)
def test_several_decompositions_need_a_policy_that_chooses(name, command, tmp_path, capsys):
    alone, chosen = tmp_path / "alone", tmp_path / "chosen"
    options = [f"decomposition={name}", "rank.macs=0.6", "method.order=[factorize]"]
    assert command(*SMOKE, *options, "rank=uniform", outputs=alone) == 1
    assert "and uniform does not choose among decompositions: give one, or take a policy" in capsys.readouterr().err
    assert command(*SMOKE, *options, f"rank={CHOOSING[name]}", outputs=chosen) == 0
    result, _ = only_result(chosen)
    assert 0.594 <= result.phases[-1].macs / sum(layer.macs_before for layer in result.layers) <= 0.606


def test_a_budget_of_bytes_by_product_quantization(command, tmp_path):
    options = ["decomposition=product_quantization", "rank.macs=null", "rank.bytes=0.15", "method.order=[factorize]"]
    assert command(*SMOKE, *options) == 0
    result, folder = only_result(tmp_path / "outputs")
    dense = 4 * sum(layer.weights_before for layer in result.layers)
    stored = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    weights = sum(t.numel() * t.element_size() for name, t in stored.items() if "weight" in name)
    assert 0.1485 <= weights / dense <= 0.1515
    assert weights < result.phases[-1].bytes < weights + 20_000
    assert result.phases[-1].macs == sum(layer.macs_before for layer in result.layers)


def test_product_quantization_takes_no_budget_of_macs(command, capsys):
    assert command(*SMOKE, "decomposition=product_quantization") == 1
    assert "product_quantization does not save macs at any rank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fit", "decomposition", "more"),
    [
        ("whitened", "tucker2", ["reconstruct.asymmetric=true"]),
        ("response", "channel_svd", []),
        ("relu", "channel_svd", ["reconstruct.positions=5"]),
    ],
)
def test_fits_to_data(fit, decomposition, more, command, tmp_path):
    options = [f"decomposition={decomposition}", f"reconstruct={fit}", "reconstruct.images=100", *more]
    assert command(*SMOKE, *options, "method.order=[train,factorize]") == 0
    result, folder = only_result(tmp_path / "outputs")
    assert [phase.name for phase in result.phases] == ["train", "factorize"]
    load(folder / "model.pt")


def test_a_fit_that_is_killed_goes_on_with_the_next_layer(command, tmp_path, monkeypatch):
    options = [
        "reconstruct=whitened",
        "reconstruct.asymmetric=true",
        "reconstruct.images=100",
        "method.order=[factorize]",
        "rank.metric=error",  # errors of responses are those of fits, too
    ]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    names = fitted_layers(monkeypatch)
    assert command(*SMOKE, *options, outputs=alone) == 0
    whole = list(names)
    with monkeypatch.context() as patched:
        fitted_layers(patched, killed_at=whole[1])
        with pytest.raises(KilledError):
            command(*SMOKE, *options, outputs=killed)
    assert len(list(killed.glob("store/*/fitted/*.pt"))) == 1
    names.clear()
    assert command(*SMOKE, *options, outputs=killed) == 0
    assert names == whole[1:] != []
    same_networks(only_result(alone)[1], only_result(killed)[1])
    assert not list(killed.glob("store/*/fitted"))


def test_a_fit_that_does_not_exist_ends_before_training(command, capsys):
    assert command(*SMOKE, "reconstruct=relu") == 1
    assert "there is no fit 'relu' for spatial_svd" in capsys.readouterr().err


def test_a_compressed_network_is_decomposed_anew(command, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert command(*SMOKE, "rank.macs=0.5", outputs=first) == 0
    _, folder = only_result(first)
    options = [
        "method=refactorize",
        "decomposition=channel_svd",
        "rank.macs=0.7",
        f"model.weights={folder / 'model.pt'}",
    ]
    assert command(*SMOKE, *options, outputs=second) == 0
    result, again = only_result(second)
    assert [phase.name for phase in result.phases] == ["evaluate", "recompose", "factorize", "finetune"]
    assert result.phases[0].accuracy == result.phases[1].accuracy
    assert {layer.decomposition for layer in result.layers} <= {"channel_svd", "linear_svd", None}
    load(again / "model.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["reconstruct=whitened", "reconstruct.images=0"], "reconstruct.images=0 is refused: allowed is a whole"),
        (
            ["reconstruct=whitened", "reconstruct.asymmetric=yess"],
            "asymmetric=yess is refused: allowed is true or false",
        ),
        (
            ["reconstruct=relu", "decomposition=channel_svd", "reconstruct.schedule=[1,2]"],
            "reconstruct.schedule.0=1 is refused: allowed is a list of 2, each a number in (0, 1e+09]",
        ),
        (["reconstruct=whitened", "+reconstruct.cutof=1e-3"], "reconstruct.cutof is read by nobody"),
        (["decomposition=cp", "decomposition.conv.spatial=both"], "spatial"),
        (["decomposition=channel_svd", "decomposition.conv.order=first"], "order"),
    ],
)
def test_mistakes_end_before_training(options, message, command, tmp_path, capsys):
    assert command(*SMOKE, *options) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("store/train-*"))


def test_a_budget_between_the_flat_rungs_of_pairs_is_met_by_the_real_ones(command, tmp_path):
    options = ["decomposition=tucker2", "decomposition.linear=null", "rank.macs=0.28", "method.order=[train,factorize]"]
    assert command(*SMOKE, *options) == 0
    result, _ = only_result(tmp_path / "outputs")
    assert 0.2772 <= result.phases[-1].macs / result.phases[0].macs <= 0.2828


def test_a_plan_of_other_options_is_refused(command, tmp_path, capsys):
    options = ["decomposition=channel_svd", "method.order=[factorize]"]
    assert command(*SMOKE, *options, "decomposition.conv.order=pointwise_first") == 0
    _, folder = only_result(tmp_path / "outputs")
    replay = ["rank=fixed", f"rank.ranks={folder / 'plan.yaml'}"]
    assert command(*SMOKE, *options, *replay) == 1
    assert "by channel_svd with {'order': 'pointwise_first'}, here it is channel_svd" in capsys.readouterr().err
    assert command(*SMOKE, *options, *replay, "decomposition.conv.order=pointwise_first") == 0


def test_ranks_are_chosen_again_in_sequence(command, tmp_path):
    options = ["reconstruct=whitened_asymmetric", "rank=knapsack", "rank.metric=response", "reconstruct.images=100"]
    assert command(*SMOKE, *options, "rank.resolve=1", "method.order=[factorize]") == 0
    result, folder = only_result(tmp_path / "outputs")
    assert 0.495 <= result.phases[-1].macs / sum(layer.macs_before for layer in result.layers) <= 0.505
    small = load(folder / "model.pt")
    for layer in result.layers:
        factors = small.get_submodule(layer.name)
        assert (layer.rank is None) == (not isinstance(factors, torch.nn.Sequential))
        assert layer.rank is None or factors[0].weight.shape[0] == layer.rank
