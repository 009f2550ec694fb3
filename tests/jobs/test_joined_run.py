"""Jobs whose layers choose among several decompositions, from the command line to the plan and back."""

import pytest
import torch
import yaml

from lowrank_exp import load
from lowrank_exp.files.results import Result
from lowrank_exp.rank import Plan
from support.smoke import SMOKE

# A fit to data sees the images that the seed of its phase draws, which is another one where a plan is given back.
DIGITS = (*SMOKE, "method.order=[train,factorize]", "reconstruct=none")
JOINED = ["decomposition=joined", "rank=knapsack"]
ALDS = ["decomposition=alds", "rank=alds", "rank.bound=code"]


def only_result(outputs):
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


RESPONSE = [*JOINED, "rank.metric=response"]


@pytest.mark.parametrize("choosing", [JOINED, RESPONSE, ALDS, ["decomposition=alds", "rank=knapsack"]])
def test_layers_get_different_decompositions_and_the_plan_can_be_given_back(choosing, command, tmp_path):
    assert command(*DIGITS, *choosing, "rank.macs=0.2") == 0
    result, folder = only_result(tmp_path / "outputs")
    assert 0.198 <= result.phases[-1].macs / result.phases[0].macs <= 0.202
    plan = Plan.read(folder / "plan.yaml")
    chosen = {(one.decomposition, str(one.options)) for one in plan.layers.values() if one.rank is not None}
    assert len(chosen) > 1
    recorded = [(layer.name, layer.decomposition, layer.rank) for layer in result.layers]
    planned = [(name, one.decomposition, one.rank) for name, one in plan.layers.items()]
    assert recorded == [(n, d, list(rank) if isinstance(rank, tuple) else rank) for n, d, rank in planned]

    again = tmp_path / "again"
    replay = ["rank=fixed", f"rank.ranks={folder / 'plan.yaml'}"]
    assert command(*DIGITS, choosing[0], *replay, outputs=again) == 0
    replayed, folder_again = only_result(again)
    assert [phase.accuracy for phase in replayed.phases] == [phase.accuracy for phase in result.phases]
    assert replayed.phases[-1].macs == result.phases[-1].macs
    image = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(folder / "model.pt")(image), load(folder_again / "model.pt")(image))


def test_alds_chooses_groups_by_layer(command, tmp_path):
    """conv1 has one input channel; conv2 has six: one, two or three groups (six are not listed)."""
    budget = ["rank.macs=null", "rank.weights=0.4"]
    assert command(*DIGITS, *ALDS, *budget) == 0
    result, folder = only_result(tmp_path / "outputs")
    layers = yaml.safe_load((folder / "plan.yaml").read_text())["layers"]
    assert 0.396 <= sum(layer["weights_after"] for layer in layers.values()) / 61_470 <= 0.404
    assert sum(layer["weights_after"] for layer in layers.values()) == result.phases[-1].weights
    for name, allowed in (("conv1", {1}), ("conv2", {1, 2, 3})):
        assert layers[name]["rank"] is None or layers[name]["options"]["groups"] in allowed
    assert {layers[name]["decomposition"] for name in ("fc1", "fc2")} == {"linear_svd"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["decomposition=joined", "rank=uniform"],
            "spatial_svd, channel_svd, tucker2, and uniform does not choose among decompositions",
        ),
        (["decomposition=joined", "rank=alds"], "alds compares channel SVDs of k input groups, got spatial_svd"),
        (["decomposition=joined", "rank=fixed", "rank.ranks={conv2: 3}"], "conv2 has rank 3 set by hand, but may be"),
        (["decomposition=grouped_channel_svd", "rank=alds"], "list grouped_channel_svd with groups 1 among them"),
        (["decomposition=alds", "rank=alds", "rank.restarts=0"], "rank.restarts=0 is refused"),
    ],
)
def test_mistakes_end_before_training(options, message, command, tmp_path, capsys):
    assert command(*DIGITS, *options) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("store/train-*"))
