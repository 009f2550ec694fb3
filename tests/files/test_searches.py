"""The file of a search, its front, and when a training is hopeless."""

import pytest

from lowrank_exp.files.results import PhaseResult
from lowrank_exp.files.searches import Search, Trial, costs_of, hopeless, searches_beside

BOTH = ["val_accuracy", "macs"]


def complete(number: int, accuracy: float, macs: float, curve: list[float] | None = None) -> Trial:
    values = {"val_accuracy": accuracy, "macs": macs}
    return Trial(
        number, "complete", values=values, phase="finetune", curve=curve or [accuracy], costs={"macs": macs, "bytes": 9}
    )


def test_the_front_holds_what_nothing_dominates_best_first():
    trials = [
        complete(0, 0.70, 10),
        complete(1, 0.90, 30),
        complete(2, 0.90, 40),  # dearer than 1
        complete(3, 0.80, 20),
        complete(4, 0.80, 20),  # as 3
        complete(5, 0.60, 20),  # worse than 0, and dearer
        Trial(6, "pruned", reason="hopeless"),
        Trial(7, "failed", reason="no"),
    ]
    search = Search("s", BOTH, trials=trials)
    assert [trial.number for trial in search.front] == [1, 3, 0]
    assert search.counted() == "8 trials: 6 complete, 1 pruned, 1 failed"
    assert [trial.number for trial in Search("s", ["val_accuracy"], trials=trials).front] == [1]
    assert Search("s", BOTH).front == []


def test_a_training_is_hopeless_below_the_median_of_those_that_cost_no_more():
    trials = [
        complete(n, 0.9, macs, [0.2, accuracy]) for n, (macs, accuracy) in enumerate([(10, 0.5), (20, 0.6), (30, 0.9)])
    ]
    search = Search("s", BOTH, rivals=2, warmup=1, trials=[*trials, Trial(3, "pruned", phase="finetune", curve=[1, 1])])
    said = "after epoch 2 of finetune its validation accuracy is at best 0.5400, and that of 2 trials that cost no more"
    assert hopeless(search, "finetune", [0.1, 0.54], {"macs": 25}).startswith(said)  # the median of 0.5 and 0.6 is 0.55
    going_on = {
        "at the median": ("finetune", [0.1, 0.55], {"macs": 25}),
        "better before": ("finetune", [0.56, 0.1], {"macs": 25}),
        "one rival alone": ("finetune", [0.1, 0.1], {"macs": 15}),
        "the warm-up": ("finetune", [0.1], {"macs": 40}),
        "another phase": ("train", [0.1, 0.1], {"macs": 40}),
        "longer than all": ("finetune", [0.1, 0.1, 0.1], {"macs": 40}),
    }
    for why, (phase, curve, costs) in going_on.items():
        assert hopeless(search, phase, curve, costs) is None, why
    assert "0.6000 in the median" in hopeless(search, "finetune", [0.1, 0.59], {"macs": 30})
    assert "of 3 trials was 0.6000" in hopeless(search, "finetune", [0.1, 0.59], {})  # before anything was measured
    assert hopeless(Search("s", BOTH, None, 1, trials), "finetune", [0.0, 0.0], {"macs": 30}) is None


def test_costs_are_those_of_the_last_phase():
    phases = [PhaseResult("train", macs=9, latency_ms=1.5), PhaseResult("factorize", 0.5, macs=4, weights=2)]
    assert (costs_of(phases), costs_of(phases[:1])) == ({"macs": 4, "weights": 2}, {"macs": 9, "latency_ms": 1.5})
    assert costs_of([]) == {}


def test_the_file_is_read_as_it_was_written_and_another_one_is_refused(tmp_path):
    search = Search(
        "runs-1", BOTH, 4, 1, [complete(0, 0.5, 10), Trial(1, "failed", ["rank.macs=2"], reason="too much")]
    )
    path = tmp_path / "runs" / "search-1.json"
    search.write(path)
    assert Search.read(path) == search
    (tmp_path / "runs" / "search-2.json").write_text("{}")
    found, unread = searches_beside([path.parent / "a", path.parent / "b", tmp_path / "other" / "c"])
    assert found == [search]
    assert [line.startswith(f"{path.with_name('search-2.json')} is not the file of a search") for line in unread] == [
        True
    ]
    for text in ("[]", '{"name": "", "objectives": ["accuracy"], "trials": []}', "{", '{"name": "", "trials": [1]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not the file of a search"):
            Search.read(path)
    path.write_text('{"name": "", "objectives": ["macs"], "trials": [{"number": 0, "state": "ok"}]}')
    with pytest.raises(ValueError, match="one of complete, pruned, failed, unfinished"):
        Search.read(path)
