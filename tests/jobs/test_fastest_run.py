"""Jobs that search the fastest network within a loss of accuracy, on a runtime whose times are known."""

import pytest
import torch

from lowrank_exp.export import read_metadata
from lowrank_exp.files.results import Result
from lowrank_exp.phases import fastest
from lowrank_exp.phases.fastest import Fastest
from lowrank_exp.rank import Plan
from lowrank_exp.rank.times import verify
from support.counting import interleaved, timing
from support.smoke import SMOKE

JOB = (
    *SMOKE,
    "method=fastest",
    "latency.runtime=support.counting.Counting",
    "decomposition=channel_svd",
    "rank.metric=error",
    "reconstruct=none",
    "method.phases.fastest.resolution=0.1",
)


@pytest.fixture(autouse=True)
def known_times(monkeypatch):
    monkeypatch.setattr("support.counting.BLOCK", 1)
    monkeypatch.setattr(verify, "time_interleaved", interleaved)
    monkeypatch.setattr(fastest, "time_interleaved", interleaved)
    monkeypatch.setattr(fastest, "installed_runtimes", list)
    monkeypatch.setattr("lowrank_exp.rank.times.clock.time_passes", lambda one, seconds: timing(one.ms))


def _result(folder):
    (path,) = folder.glob("outputs/runs/*/result.json")
    return path.parent, Result.read(path)


def test_the_fastest_network_within_the_target_is_made_exported_and_told(command, tmp_path, monkeypatch, capsys):
    scores = {}

    def score(search, network):
        """Accuracy falls in proportion to the weights that are gone: a quarter of them costs as many points."""
        weights = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)
        dense = scores.setdefault("dense", weights)
        return 0.8 - 0.1 * (1 - weights / dense)

    monkeypatch.setattr(fastest._Search, "score", score)
    assert command(*JOB, "target.accuracy_drop=0.05") == 0
    folder, result = _result(tmp_path)
    *_, phase = result.phases
    assert (result.status, [one.name for one in result.phases]) == ("ok", ["train", "fastest"])
    values = phase.values
    assert values["val_accuracy_dense"] == 0.8
    assert 0.75 <= values["val_accuracy_small"] < 0.8
    assert values["budgets_tried"] >= 3
    assert values["measured_ms"] / values["measured_dense_ms"] <= values["budget"] * 1.04
    assert (values["counting_dense_ms"], values["counting_small_ms"]) == (
        values["measured_dense_ms"],
        values["measured_ms"],
    )
    plan = Plan.read(folder / "plan.yaml")
    assert plan.runtime["name"] == "counting"
    assert any(rank is not None for rank in plan.ranks.values())
    assert result.config["target"] == {"accuracy_drop": 0.05}
    assert read_metadata(folder / "model.onnx")["macs"] == phase.macs
    speed = values["counting_dense_ms"] / values["counting_small_ms"]
    assert f"{speed:.2f} x" in capsys.readouterr().out


def test_a_target_that_nothing_faster_keeps_is_missed_and_nothing_changes(command, tmp_path, monkeypatch):
    def score(search, network):
        """Networks with factors are worse."""
        return 0.4 if any(isinstance(module, torch.nn.Sequential) for module in network.modules()) else 0.9

    monkeypatch.setattr(fastest._Search, "score", score)
    assert command(*JOB, "target.accuracy_drop=0") == 1
    _, result = _result(tmp_path)
    assert result.status == "missed"
    (warning,) = [one for one in result.told() if "no faster network keeps" in one]
    assert "within 0.00% of 90.00%: the best of" in warning
    assert all(layer.rank is None for layer in result.layers)


def test_what_the_search_decides_itself_is_refused(command, capsys):
    assert command(*JOB, "rank.latency=0.5") == 1
    assert "rank.latency=0.5 is a budget of time, which this method searches itself" in capsys.readouterr().err
    assert command(*JOB, "data.validation=0") == 1
    assert "data.validation" in capsys.readouterr().err
    assert command(*JOB, "target.accuracy_drop=1.5") == 1
    assert "target.accuracy_drop" in capsys.readouterr().err


def test_a_policy_without_options_is_refused():
    with pytest.raises(ValueError, match="a partial of allocate"):
        Fastest(factorize=type("F", (), {"rank": print})(), recalibrate=None)
