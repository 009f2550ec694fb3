"""Jobs under a budget of time. Nothing is timed here: times are told by weights."""

from dataclasses import replace

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.network.cost import network_cost
from lowrank_exp.rank import Plan
from lowrank_exp.rank.times import verify
from lowrank_exp.rank.times.clock import Clock
from support.smoke import SMOKE

ONESHOT = (*SMOKE, "method=oneshot", "rank.macs=null")


@pytest.fixture
def by_weights(monkeypatch):
    """A nanosecond for every weight, and for every network ten thousand more."""

    def layer_ms(clock, shape, device, kind=None, rank=None):
        one = shape.layer()
        return 1e-6 * (one.weight.numel() if kind is None else int(kind.rank_weights(one, [rank])[0]))

    monkeypatch.setattr(Clock, "_layer_ms", layer_ms)
    monkeypatch.setattr(
        Clock,
        "_whole_ms",
        lambda clock, network, batch: (
            0.01 + 1e-6 * sum(c.weights for c in network_cost(network, batch[:1]).every.values())
        ),
    )
    monkeypatch.setattr(
        verify,
        "verify",
        lambda plan, *_: replace(plan, measured_ms=plan.predicted_ms, measured_dense_ms=plan.dense_ms),
    )


def not_measured(*_):
    raise AssertionError("nothing may be measured here")


def results(folder):
    return {path.parent: Result.read(path) for path in folder.glob("outputs/runs/*/result.json")}


def test_job_keeps_its_budget_of_time_and_its_plan_replays_without_a_runtime(
    command, tmp_path, by_weights, monkeypatch, capsys
):
    assert command(*ONESHOT, "rank.latency=0.6") == 0
    ((folder, first),) = results(tmp_path).items()
    plan = Plan.read(folder / "plan.yaml")
    assert (plan.runtime["name"], plan.runtime["batch_size"], plan.runtime["threads"]) == ("eager", 1, 1)
    assert 0.5 < plan.remaining("latency") <= 0.606
    assert plan.measured_ms == plan.predicted_ms == pytest.approx(plan.remaining("latency") * plan.measured_dense_ms)
    assert first.config["method"]["phases"]["factorize"]["latency"] == {
        "batch_size": 1,
        "runtime": None,
        "threads": None,
    }

    (values,) = (phase.values for phase in first.phases if phase.name == "factorize")
    assert values == plan.times
    assert set(values) == {"predicted_ms", "dense_ms", "measured_ms", "measured_dense_ms"}

    # Another batch size is another job, and its phase is not taken from the store.
    assert command(*ONESHOT, "rank.latency=0.6", "latency.batch_size=2") == 0
    (other,) = (result for path, result in results(tmp_path).items() if path != folder)
    keys = [{phase.name: phase.key for phase in result.phases} for result in (first, other)]
    assert keys[0]["evaluate"] == keys[1]["evaluate"]
    assert keys[0]["factorize"] != keys[1]["factorize"]

    monkeypatch.setattr(Clock, "_layer_ms", not_measured)
    monkeypatch.setattr(Clock, "_whole_ms", not_measured)
    monkeypatch.setattr(verify, "verify", not_measured)
    assert command(*ONESHOT, "rank=fixed", f"rank.ranks={folder / 'plan.yaml'}", "seed=0") == 0
    (replayed,) = (one for one in results(tmp_path).values() if one.config["rank"]["policy"] == "fixed")
    assert [(one.name, one.rank, one.macs_after) for one in replayed.layers] == [
        (one.name, one.rank, one.macs_after) for one in first.layers
    ]
    assert "latency" not in replayed.config["method"]["phases"]["factorize"]

    capsys.readouterr()
    assert command(*ONESHOT, "rank.latency_ms=0.02", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "times of the layers' options are measured by the run, so the plan is not known before it" in said


def test_mistakes_in_budgets_of_time_end_before_anything_is_measured(command, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Clock, "_layer_ms", not_measured)
    for given, said in (
        (("rank.latency=0.6", "rank.latency_ms=4"), "latency=0.6 and latency_ms=4 bound the same time"),
        (("rank.latency_ms=4", "rank.over=conv"), "latency_ms=4 is a time of the whole network"),
        (("rank.latency=0.6", "rank.macs=0.001"), "the budget macs=0.001 cannot be reached"),
        (("rank=evbmf", "rank.latency=0.6"), "the evbmf policy takes no budget, got {'latency': 0.6}"),
        (
            ("method=lc", "rank.latency=0.6"),
            "phase lc: a budget of time (got latency=0.6) needs profiles with measured",
        ),
    ):
        job = given if "method=lc" in given else ("method=oneshot", *given)
        assert command(*SMOKE, "rank.macs=null", *job) == 1, given
        assert said in capfd.readouterr().err, given
    assert not (tmp_path / "outputs/store").exists()
