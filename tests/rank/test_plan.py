import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, measure, profile
from lowrank_exp.rank import Plan, PlannedLayer, allocate
from support.profiles import by_hand, layer, network


def layers():
    return network(
        layer("features.0", 1000, 300, 10, 3, np.linspace(2, 1, 90)),
        by_hand("features.1", "conv", 100, 30, refusal="ungrouped"),
        layer("fc", 500, 500, 5, 5, np.linspace(2, 1, 90), kind="linear"),
    )


def test_yaml_there_and_back(tmp_path):
    plan = allocate(layers(), "energy", macs=0.5, over="conv")
    plan.write(tmp_path / "deep" / "plan.yaml")
    again = Plan.read(tmp_path / "deep" / "plan.yaml")
    assert again == plan
    assert list(again) == list(plan)
    assert (again.policy, again.over) == ("energy", "conv")
    assert again.layers["features.1"].reason == "ungrouped"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["plan.yaml"]


def test_a_plan_is_a_mapping_in_network_order():
    plan = allocate(layers(), "fixed", ranks={"fc": 3})
    assert dict(plan) == plan.ranks == {"features.0": None, "features.1": None, "fc": 3}
    assert list(plan.ranks) == list(layers())
    assert len(plan) == 3
    assert plan.remaining("macs") == (1000 + 100 + 15) / 1600
    assert plan.remaining("weights") == (300 + 30 + 15) / 830
    with pytest.raises(KeyError):
        plan["features.2"]


def test_a_short_plan_by_hand_is_enough(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("layers:\n  features.0: {rank: 4, decomposition: spatial_svd}\n  fc: {rank: null}\n")
    plan = Plan.read(path)
    assert plan.ranks == {"features.0": 4, "fc": None}
    assert plan.layers["features.0"] == PlannedLayer(4, "spatial_svd", "from a plan file")
    again = allocate(layers(), "fixed", ranks=path)
    assert again.ranks == {"features.0": 4, "features.1": None, "fc": None}
    assert again.layers["features.0"].macs_after == 40
    assert allocate(layers(), "fixed", ranks=str(path)) == allocate(layers(), "fixed", ranks=plan) == again


def test_a_written_plan_may_be_edited_and_completed_by_a_policy(tmp_path):
    path = tmp_path / "plan.yaml"
    allocate(layers(), "uniform", macs=0.5).write(path)
    text = path.read_text()
    assert "rank: 47\n    decomposition: spatial_svd" in text
    path.write_text(
        text.replace("rank: 47\n    decomposition: spatial_svd", "rank: 30\n    decomposition: spatial_svd")
    )
    plan = allocate(layers(), "fixed", ranks=path)
    assert plan["features.0"] == 30
    assert plan.layers["features.0"].macs_after == 300
    # A layer set to null stays dense, whatever decomposition still stands beside it.
    path.write_text(text.replace("rank: 47\n    decomposition: spatial_svd", "rank: null\n    decomposition: tucker"))
    assert allocate(layers(), "fixed", ranks=path)["features.0"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: [", "is not a YAML file"),
        ("", "is not a plan: it has no mapping `layers`"),
        ("- 1\n- 2", "is not a plan"),
        ("layers: 3", "is not a plan"),
        ("policy: uniform", "is not a plan"),
        ("layers: {fc: 3}", "the layer fc needs `rank`"),
        ("layers: {fc: {decomposition: linear_svd}}", "the layer fc needs `rank`"),
        ("layers: {fc: {rank: 3}}", r"the layer fc has rank 3 but no decomposition \(got None\)"),
        ("layers: {fc: {rank: 3, decomposition: 4}}", r"has rank 3 but no decomposition \(got 4\)"),
        ("layers: {fc: {rank: 2.5, decomposition: linear_svd}}", "the layer fc has rank 2.5; it takes an integer"),
        ("layers: {fc: {rank: '3', decomposition: linear_svd}}", "the layer fc has rank '3'"),
        ("layers: {fc: {rank: true, decomposition: linear_svd}}", "the layer fc has rank True"),
        ("layers: {fc: {rank: 3, decomposition: linear_svd, ranks: 4}}", r"unknown keys \['ranks'\]; known: rank, "),
        ("layers: {fc: {rank: 3, decomposition: linear_svd, options: 4}}", "options of the layer fc .* got 4"),
        ("\x00", "is not a YAML file"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_files_name(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Plan.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xff\xfe\x00layers")
    with pytest.raises(ValueError, match="is not a YAML file"):
        Plan.read(path)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the plan file .*none.yaml does not exist \(looked for /"):
        allocate(layers(), "fixed", ranks=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layers: {conv: {rank: 3, decomposition: spatial_svd}}",
            "the plan names the layer 'conv', which does not exist",
        ),
        ("layers: {fc: {rank: 3, decomposition: channel_svd}}", "decomposes fc by channel_svd, here it is linear_svd"),
        ("layers: {fc: {rank: 91, decomposition: linear_svd}}", "fc: rank 91 set by hand is above the full rank"),
        ("layers: {features.1: {rank: 1, decomposition: spatial_svd}}", "features.1 has rank 1 .*: ungrouped"),
    ],
)
def test_a_plan_that_does_not_fit_the_network(tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        allocate(layers(), "fixed", ranks=path)


def test_a_planned_rank_without_a_decomposition_does_not_exist():
    with pytest.raises(ValueError, match="a planned layer with rank 4 needs the name of its decomposition"):
        PlannedLayer(4, None, "by hand")


def test_a_budget_of_a_compressed_network_is_of_that_network_and_the_plan_says_so(tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)), torch.zeros(1, 8, 8, 8)
    first = allocate(profile(net, x, "channel_svd"), "uniform", macs=0.6)
    assert first.of == "the dense network"
    first.write(tmp_path / "dense.yaml")
    assert "of:" not in (tmp_path / "dense.yaml").read_text()
    assert Plan.read(tmp_path / "dense.yaml").of == "the dense network"
    factorize_(net, {"0": first["0"]}, "channel_svd")
    left = measure(net, x, seconds=0).macs
    plan = allocate(profile(net, x, "spatial_svd"), "uniform", macs=0.6)
    assert plan.of == "the network as it was given, which had been compressed before, not of the dense one"
    assert sum(layer.macs_before for layer in plan.layers.values()) == left
    plan.write(tmp_path / "again.yaml")
    assert Plan.read(tmp_path / "again.yaml").of == plan.of
    factorize_(net, plan)
    assert measure(net, x, seconds=0).macs / left == pytest.approx(plan.remaining("macs"))
    assert 0.594 <= plan.remaining("macs") <= 0.606
