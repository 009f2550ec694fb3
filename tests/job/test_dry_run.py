"""A dry run says what the run would do, and leaves no trace but SVDs."""

import re
from pathlib import Path

import pytest
import yaml

from lowrank_exp.files.results import Result
from lowrank_exp.text.estimate import Estimate
from support.smoke import SMOKE

LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3")
HYDRAS = (".hydra", "lowrank-exp.log", "multirun.yaml")  # notes of the call, not ours


def files(outputs: Path) -> dict[str, int]:
    """What lies there beside Hydra's notes, and since when."""
    found = {str(path.relative_to(outputs)): path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    return {name: when for name, when in found.items() if not any(part in HYDRAS for part in Path(name).parts)}


def printed_ranks(out: str) -> dict[str, int]:
    rows = re.findall(r"^(\w+) +(\w+_svd|-) +(\d+|dense) +[\d,]+ +[\d.]+% ", out, re.MULTILINE)
    return {name: None if rank == "dense" else int(rank) for name, _, rank in rows}


def printed_times(out: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) +(finished|under 1 s|(?:about|at least) [\d.]+ \w+)", out, re.MULTILINE))


def ranks_of(plan: Path) -> dict[str, int]:
    return {name: layer["rank"] for name, layer in yaml.safe_load(plan.read_text())["layers"].items()}


def test_ranks_are_those_of_the_run_where_the_network_has_been_trained(command, tmp_path, capsys):
    outputs = tmp_path / "outputs"
    assert command(*SMOKE, "method=train") == 0
    before = files(outputs)
    job = (*SMOKE, "rank=energy", "rank.macs=0.4")
    capsys.readouterr()
    assert command(*job, "dry_run=true") == 0
    dry = capsys.readouterr().out
    after = files(outputs)
    assert {name: when for name, when in after.items() if not name.startswith("store/svd/")} == before
    assert len(list((outputs / "store/svd").iterdir())) == 5
    assert "has not run" not in dry
    times = printed_times(dry)
    assert list(times) == ["train", "factorize", "recalibrate", "finetune", "all"]
    assert (times["train"], times["finetune"] == "finished") == ("finished", False)

    assert command(*job) == 0
    capsys.readouterr()
    (plan,) = outputs.glob("runs/*/plan.yaml")
    assert tuple(printed_ranks(dry)) == LAYERS
    assert printed_ranks(dry) == ranks_of(plan)
    result = Result.read(plan.parent / "result.json")
    share = result.phases[-1].macs / result.phases[0].macs
    assert f"all layers: {share:.2%} of the MACs, " in dry

    written = files(outputs)
    assert command(*job, "dry_run=true") == 0
    again = capsys.readouterr().out
    assert "finished already; nothing would be run again" in again
    assert printed_ranks(again) == printed_ranks(dry)
    assert set(printed_times(again).values()) == {"finished"}
    assert files(outputs) == written


def test_ranks_are_those_of_the_run_where_weights_are_given(command, tmp_path, capsys):
    assert command(*SMOKE, "method=train", outputs=tmp_path / "dense") == 0
    (weights,) = (tmp_path / "dense").glob("runs/*/model.pt")
    job = (*SMOKE, "method=oneshot", f"model.weights={weights}", "rank=energy", "rank.over=conv")
    capsys.readouterr()
    assert command(*job, "dry_run=true") == 0
    dry = capsys.readouterr().out
    assert command(*job) == 0
    (plan,) = (tmp_path / "outputs").glob("runs/*/plan.yaml")
    assert printed_ranks(dry) == ranks_of(plan)
    convs = [layer for layer in Result.read(plan.parent / "result.json").layers if layer.name.startswith("conv")]
    share = sum(layer.macs_after for layer in convs) / sum(layer.macs_before for layer in convs)
    assert f"convolutions: {share:.2%} of the MACs, " in dry

    written = files(tmp_path / "outputs")
    assert command(*SMOKE, "dry_run=true", f"model.weights={weights}", "rank.metric=error") == 0
    assert "train has not run and weights are those before it" in " ".join(capsys.readouterr().out.split())
    assert files(tmp_path / "outputs") == written


def test_untrained_weights_are_told_and_nothing_of_them_is_kept(command, tmp_path, capsys):
    assert command(*SMOKE, "dry_run=true", "rank=energy") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "train has not run and weights are untrained" in out
    assert files(tmp_path / "outputs") == {}


def test_smallest_and_largest_budgets_of_lenet(command, capsys):
    """Every layer from its shapes: K x 1 on rows of the output, then 1 x K; linear layers as two."""
    assert command(*SMOKE, "dry_run=true") == 0
    out = capsys.readouterr().out
    per_rank = {
        "conv1": (1 * 5 * 28 * 32 + 6 * 5 * 28 * 28, 1 * 5 + 6 * 5),
        "conv2": (6 * 5 * 10 * 14 + 16 * 5 * 10 * 10, 6 * 5 + 16 * 5),
        "fc1": (400 + 120, 400 + 120),
        "fc2": (120 + 84, 120 + 84),
        "fc3": (84 + 10, 84 + 10),
    }
    dense = {
        "conv1": (117_600, 150),
        "conv2": (240_000, 2400),
        "fc1": (48_000, 48_000),
        "fc2": (10_080, 10_080),
        "fc3": (840, 840),
    }
    full = {"conv1": 5, "conv2": 30, "fc1": 120, "fc2": 84, "fc3": 10}
    for place, what in enumerate(("macs", "weights")):
        whole = sum(cost[place] for cost in dense.values())
        cheaper = {
            name: [r * cost[place] for r in range(1, full[name] + 1) if r * cost[place] < dense[name][place]]
            for name, cost in per_rank.items()
        }
        lowest, highest = (sum(pick(costs) for costs in cheaper.values()) / whole for pick in (min, max))
        (found,) = re.findall(rf"^rank\.{what} +([\d.]+) +([\d.]+) +([\d.]+)", out, re.MULTILINE)
        assert found == (f"{lowest:.4f}", f"{highest:.4f}", "1.0000")


def test_a_budget_out_of_reach_ends_with_the_smallest_and_records_nothing(command, tmp_path, capfd):
    assert command(*SMOKE, "dry_run=true", "rank.macs=0.01") == 1
    said = capfd.readouterr().err
    assert "the smallest possible is macs=0.0985" in said
    assert "Traceback" not in said
    assert files(tmp_path / "outputs") == {}
    with pytest.raises(ValueError, match="smallest possible"):
        command(*SMOKE, "dry_run=true", "rank.macs=0.01", "debug=true")


def test_every_job_of_a_sweep_is_dry(command, tmp_path, capsys):
    assert command("-m", *SMOKE, "dry_run=true", "rank.macs=0.3,0.6", "rank.metric=error") == 0
    out = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"all layers: ([\d.]+)% of the MACs", out)]
    assert shares == [pytest.approx(30, abs=0.3), pytest.approx(60, abs=0.6)]
    assert files(tmp_path / "outputs") == {}


def test_a_policy_that_looks_at_data_says_how_many_rank_sets_it_scores(command, tmp_path, capsys):
    assert command(*SMOKE, "method=train") == 0
    job = (*SMOKE, "rank=enc_map", "rank.metric=measured", "method.phases.factorize.measure.samples=3")
    capsys.readouterr()
    assert command(*job, "dry_run=true") == 0
    out = capsys.readouterr().out
    assert "enc_map looks at data, so its plan is not known before the run" in out
    (scores,) = re.findall(r"(\d+) rank sets scored on 143 validation images: ", out)
    assert printed_ranks(out) == {}
    assert re.search(r"^rank\.macs +0\.0985 ", out, re.MULTILINE)
    assert not list((tmp_path / "outputs/store").glob("scores"))
    assert command(*job) == 0
    assert len(list((tmp_path / "outputs/store/scores").glob("*/*.json"))) == int(scores) == 15


def test_errors_that_are_measured_first_are_told(command, capsys):
    told = {"error": "compares errors that are measured first", "response": "looks at data"}
    for metric, why in told.items():
        options = ["decomposition=joined", "rank=knapsack", f"rank.metric={metric}", "method.order=[factorize]"]
        assert command(*SMOKE, *options, "dry_run=true") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert f"knapsack {why}, so its plan is not known before the run" in out
        assert bool(re.search(r"responses to [\d,]+ training images", out)) == (metric == "response")
        assert "the errors that ranks reach" in out


def test_without_validation_images_it_fails_as_the_run_does(command, capfd):
    assert command(*SMOKE, "dry_run=true", "rank=enc_map", "rank.metric=measured", "data.validation=0") == 1
    assert "set data.validation to a fraction" in " ".join(capfd.readouterr().err.split())


def test_fits_to_data_and_batch_norm_are_estimated(command, capsys):
    job = (
        "model=resnet20",
        "model.depth=8",
        "data.image_size=32",
        "method=oneshot",
        "decomposition=channel_svd",
        "rank.over=conv",
    )
    assert command(*SMOKE, *job, "reconstruct=whitened", "reconstruct.images=50", "dry_run=true") == 0
    out = capsys.readouterr().out
    times = printed_times(out)
    assert list(times) == ["evaluate", "factorize", "recalibrate", "all"]
    assert times["factorize"].startswith("at least ")
    assert times["all"].startswith("at least ")
    assert "; without the fit whitened itself" in " ".join(out.split())


def test_epochs_that_are_left_of_an_interrupted_training(command, monkeypatch, capsys):
    def pull_the_plug(*arguments):
        raise RuntimeError("plug pulled")

    with monkeypatch.context() as patched:
        patched.setattr("lowrank_exp.job.loggers.Log.epoch", pull_the_plug)
        assert command(*SMOKE, "training.epochs=3") == 1
    capsys.readouterr()
    assert command(*SMOKE, "training.epochs=3", "dry_run=true") == 0
    out = capsys.readouterr().out
    assert "2 of 3 epochs, 21 steps each" in out


def test_an_estimate_is_the_sum_of_its_parts():
    one = Estimate("train", (("10 epochs", 100.0), ("accuracy", 20.0), ("latency", 0.5)))
    assert (one.seconds, one.dominant, one.time) == (120.5, "10 epochs", "about 2 min")
    assert (Estimate("train").seconds, Estimate("train").time) == (0, "finished")
    fit = Estimate("fit", (("passes", 7.0),), unknown="the fit itself")
    assert (fit.time, fit.dominant) == ("at least 7 s", "passes; without the fit itself")
