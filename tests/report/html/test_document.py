"""The data of the page: rows, cells, fronts, jobs."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lowrank_exp.files.results import LayerResult, Result
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.html.document import document
from lowrank_exp.report.html.jobs import CURVES, MOST_EPOCHS, curve_of, job_record
from lowrank_exp.report.html.pool import Pool
from lowrank_exp.report.html.times import times_of
from lowrank_exp.report.html.write import page
from lowrank_exp.report.render import Section
from lowrank_exp.report.table import table, with_differing
from support.synthetic_page import whole_job, write_page


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return data_of(write_page(tmp_path_factory.mktemp("page")))


def data_of(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def cell(data: dict, row: int, key: str) -> object:
    return data["rows"][row]["cells"][[column["key"] for column in data["columns"]].index(key)]


def test_rows_and_cells(data: dict) -> None:
    labels = [row["label"] for row in data["rows"]]
    assert labels == ["svd", "energy", "absent", "cheap", "poor"]
    assert [row["status"] for row in data["rows"]] == ["ok", "ok", "missing", "failed", "ok"]
    assert cell(data, 0, "accuracy") == [0.898, 0.0014142]
    assert cell(data, 0, "macs_ratio") == [0.5, 0]
    assert cell(data, 2, "accuracy") is None
    assert data["rows"][3]["failed"] == [{"seed": 2, "status": "failed", "last": "RuntimeError: no memory for conv_1"}]
    assert data["rows"][2]["missing"] == [0, 1]


def test_times_have_columns_by_runtime_and_batch_size(data: dict) -> None:
    ways = [column["way"] for column in data["columns"] if column["key"].startswith("ms:")]
    assert ways == ["eager 2.15, 1 thread, batch 1", "eager 2.15, 1 thread, batch 8"]
    assert cell(data, 0, "ms:0") == [3, 0]
    assert cell(data, 0, "speedup:0") == [1.3333, 0]
    assert cell(data, 0, "ms:1") == [16, 0]
    assert cell(data, 0, "speedup:1") == [1.25, 0]
    assert [cost["key"] for cost in data["costs"]] == ["macs", "weights", "bytes", "ms:0", "ms:1"]


def test_fronts_verdict_and_published_points(data: dict) -> None:
    (experiment,) = data["experiments"]
    assert experiment["fronts"]["macs"] == [0, 1, 3]
    assert experiment["fronts"]["ms:0"] == [0, 3]
    assert [(one["points"], one["cost"], one["row"]) for one in experiment["verdict"]] == [
        *((0.5, "latency_ms", 0), (0.5, "macs", 0)),
        *((1.0, "latency_ms", 0), (1.0, "macs", 1)),
    ]
    assert (
        experiment["verdict"][3]["command"] == "lowrank-exp hydra.mode=RUN experiment=table1 row=table1/energy seed=0"
    )
    assert experiment["published"] == [
        {"label": "svd", "accuracy": 0.895, "macs_ratio": 0.45, "row": 0},
        {"label": "energy", "accuracy": 0.88, "macs_ratio": 0.35, "row": 1},
    ]
    assert experiment["dense"] == [0.9]


def test_a_job_has_phases_layers_curves_and_place(data: dict) -> None:
    job = data["rows"][0]["jobs"][1]
    assert [(phase["name"], phase["accuracy"]) for phase in job["phases"]] == [
        ("dense", 0.9),
        ("factorize", 0.799),
        ("finetune", 0.899),
    ]
    layers, before = data["pool"][job["layers"]], data["pool"][job["costs"]]
    assert before["name"] == ["conv1", "fc"]
    assert before["full_rank"] == [8, None]
    assert before["spectrum"] == [[[[k, 2.0 ** (1 - k)] for k in range(1, 9)]], None]
    assert (layers["macs_after"], layers["rank"]) == ([450_000, 100_000], [4, None])
    assert layers["reason"] == ["chosen by uniform", "left alone by a rule"]
    assert layers["response_error"] == [0.01, None]
    assert [name for name, _ in job["curves"]] == ["dense", "finetune"]
    assert data["pool"][job["curves"][1][1]]["train_loss"] == [2, 1]
    assert data["pool"][job["place"]]["versions"] == {"torch": "2.15.0"}
    assert data["rows"][0]["jobs"][0]["place"] == job["place"]


def test_classes_and_confusions_are_differences_over_all_seeds(data: dict) -> None:
    classes = data["rows"][0]["classes"]
    assert classes["change"] == [0, -0.1, 0.05]
    assert data["pool"][classes["confused"]] == ["cat", "dog", "ship"]
    # of ten images of a dog and two seeds one more each is taken for a ship; 9.5 of ten ships round to even: ten
    assert sorted(map(tuple, classes["confusion"])) == [(1, 1, -2), (1, 2, 2), (2, 0, -2), (2, 2, 2)]


def test_configurations_are_what_all_share_and_what_is_a_rows_own(data: dict) -> None:
    assert data["shared"]["decomposition._target_"] == "lowrank_exp.decomposition.channel_svd.ChannelSVD"
    assert data["rows"][0]["config"]["rank.macs"] == "0.5"
    assert data["rows"][2]["config"] == {}


def test_long_curves_are_thinned_to_their_last_epoch(job: Callable) -> None:
    phase = replace(job().phases[0], history=[{"train_loss": float(k)} for k in range(1000)])
    curve = curve_of(phase)
    assert len(curve["epoch"]) == 59 <= MOST_EPOCHS
    assert (curve["epoch"][-1], curve["train_loss"][-1], curve["epoch"][0]) == (1000, 999, 17)
    assert "val_loss" not in curve


def test_the_same_job_timed_elsewhere_has_both_times(job: Callable) -> None:
    def by(result: Result, name: str, ms: float) -> Result:
        phases = [
            replace(one, runtime={"name": name}, latency=[{"batch_size": 1, "median_ms": ms * k}])
            for k, one in zip((2, 1), result.phases, strict=True)
        ]
        return replace(result, phases=phases, dense=phases[0])

    times = times_of([by(job(), "eager", 3.0), by(job(), "onnx", 1.0), job(status="failed")])
    assert times == {
        "eager, batch 1": {job().fingerprint: (3.0, 6.0)},
        "onnx, batch 1": {job().fingerprint: (1.0, 2.0)},
    }
    away = replace(by(job(), "onnx", 5.0), environment={"machine": "other", "device": "cuda"})
    assert list(times_of([by(job(), "onnx", 1.0), away])) == ["onnx, batch 1, box, cpu", "onnx, batch 1, other, cuda"]


def test_results_without_dense_network_classes_or_curves_make_a_page(job: Callable, conf: Path, tmp_path: Path) -> None:
    for number, made in enumerate((replace(job(), dense=None), job(status="failed", error=None, epochs=2))):
        made.write(tmp_path / "runs" / str(number) / "result.json")
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "r.html")], conf=conf) == 1
    data = data_of(tmp_path / "r.html")
    assert data["experiments"][0]["verdict"] == []
    assert data["rows"][0]["classes"] is None
    assert [cost["relative"] for cost in data["costs"]] == [None] * 4


NO_CURVES = (
    [],
    [[1, 1.0], [2]],
    [[1, "0.5"]],
    [[1, True]],
    [[1, math.nan]],
    [[1, math.inf]],
    [[10**400, 1.0]],
    [1, 0.5],
    "ab",
)


@pytest.mark.parametrize("pairs", NO_CURVES)
def test_a_spectrum_with_what_is_no_curve_is_left_out(job: Callable, pairs: object) -> None:
    curve = [[1, 1.0], [2, 0.5]]
    layers = [LayerResult("conv", spectrum=[curve]), LayerResult("fc", spectrum=[curve, pairs])]
    pool = Pool()
    record = job_record(replace(job(), layers=layers), pool)
    assert pool.values[record["costs"]]["spectrum"] == [[curve], None]


def test_numbers_that_no_float_holds_are_left_out(job: Callable, conf: Path, tmp_path: Path) -> None:
    first, last = job().phases
    timed = {
        "latency_ms": 2.0,
        "latency": [{"batch_size": 1, "median_ms": 10**400}, {"batch_size": 2, "median_ms": 3.5}],
    }
    last = replace(last, history=[{"train_loss": 10**400, "val_loss": 0.5}], **timed)
    replace(job(), phases=[first, last]).write(tmp_path / "runs" / "result.json")
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "r.html")], conf=conf) == 0
    data = data_of(tmp_path / "r.html")
    (run,) = data["rows"][0]["jobs"]
    (_, place) = run["curves"][-1]
    assert data["pool"][place] == {"epoch": [1], "val_loss": [0.5]}
    assert [column["way"].rpartition(", ")[2] for column in data["columns"] if "way" in column] == ["batch 2"]


def test_a_hundred_runs_of_a_deep_network_are_below_a_megabyte() -> None:
    results = []
    for number in range(100):
        made = whole_job(f"row{number // 2}", "uniform", 0.2 + number // 2 / 100, 0.88, 2.0, number % 2)
        layers = [
            replace(layer, name=f"layer{k}.{layer.name}", macs_after=1000.5 * k + number, weight_error=k / 97)
            for k in range(10)
            for layer in made.layers
        ]
        curve = [{name: (k + number) / 7 for name in CURVES} for k in range(164)]
        phases = [replace(phase, history=curve if phase.history else []) for phase in made.phases]
        results.append(replace(made, layers=layers, phases=phases))
    rows = configurations(results)
    frame = with_differing(table(rows), rows)
    section = Section("table1", frame, None, [], "", [])
    data = document([section], rows, frame, [], results)
    assert (len(data["rows"]), sum(len(row["jobs"]) for row in data["rows"])) == (50, 100)
    assert 200_000 < len(page(data).encode()) < 1_000_000


def test_the_table_of_the_terminal_and_the_page_have_the_same_rows(tmp_path: Path, data: dict) -> None:
    frame = pd.read_csv(write_page(tmp_path).parent / "report" / "results.csv")
    assert frame["configuration"].tolist() == [row["label"] for row in data["rows"]]
