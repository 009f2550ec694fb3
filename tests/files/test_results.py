"""What a job leaves behind: round trips, refusals, fingerprints."""

import hashlib
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank_exp.files.gather import gather
from lowrank_exp.files.results import (
    EXCLUDED,
    LayerResult,
    PhaseResult,
    Result,
    deciding,
    digest,
    fingerprint,
)
from support.cells import cells


def example(**changes: object) -> Result:
    values = {
        "status": "ok",
        "fingerprint": "0123456789abcdef",
        "experiment": "table1",
        "row": "svd",
        "seed": 3,
        "method": "decompose",
        "config": {"seed": 3, "rank": {"macs": 0.5}, "name": "größe"},
        "phases": [PhaseResult("dense", 0.9, None, 0.25, macs=100, key="abc")],
        "layers": [LayerResult("conv1", "tucker2", [3, 4], 10, 5, 20, 8, 16, 16, "the policy's choice")],
        "environment": {"versions": {"torch": "2.15"}, "threads": 2},
        "error": None,
    }
    return Result(**(values | changes))


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    example().write(tmp_path / "job" / "result.json")
    assert Result.read(tmp_path / "job" / "result.json") == example()
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["result.json"]
    text = (tmp_path / "job" / "result.json").read_bytes().decode("utf-8")
    assert text.startswith('{\n "status": "ok"')
    assert "größe" in text


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    phase = PhaseResult("train", accuracy=0.5, loss=math.nan, latency_ms=math.inf)
    example(phases=[phase]).write(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())["phases"][0]
    assert (written["accuracy"], written["loss"], written["latency_ms"]) == (0.5, None, None)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    example().write(tmp_path / "result.json")
    with pytest.raises(ValueError, match=r"result\.json: config: model: only plain data .* got object"):
        example(config={"model": object()}).write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == example()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_status_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="one of ok, missed, void, pruned, interrupted, failed, got 'done'"):
        example(status="done")


def test_a_job_is_complete_whose_phases_have_all_ended_and_tells_their_warnings() -> None:
    statuses = ("ok", "missed", "interrupted", "failed")
    assert [status for status in statuses if example(status=status).complete] == ["ok", "missed"]
    phases = [PhaseResult("a", warnings=["one", "two"]), PhaseResult("b"), PhaseResult("c", warnings=["three"])]
    assert example(phases=phases).told() == ["a: one", "a: two", "c: three"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "the result must be a mapping, got list"),
        ("{}", "the result lacks config, experiment, fingerprint"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Result.read(tmp_path / "result.json")
    assert str(tmp_path / "result.json") in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record.pop("seed"), "the result lacks seed"),
        (lambda record: record["phases"][0].pop("name"), r"phases\[0\] lacks name"),
        (lambda record: record["phases"][0].update(recall=1), r"phases\[0\] has unknown fields recall"),
        (lambda record: record.update(folder="here"), "the result has unknown fields folder"),
        (lambda record: record["layers"][0].update(colour=1), r"layers\[0\] has unknown fields colour"),
        (lambda record: record.update(phases={}), "phases must be a list, got dict"),
        (lambda record: record.update(config=[]), "config must be a mapping, got list"),
        (
            lambda record: record.update(status="done"),
            "one of ok, missed, void, pruned, interrupted, failed, got 'done'",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, edit: object, message: str) -> None:
    path = tmp_path / "result.json"
    example().write(path)
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as caught:
        Result.read(path)
    assert str(path) in str(caught.value)


def test_a_field_that_an_earlier_version_did_not_write_takes_its_default(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    by_class = {"cat": 0.5, "dog": 1.0}
    phase = PhaseResult("dense", 0.75, macs=100, class_accuracy=by_class, warnings=["collapsed"], missed=True)
    example(status="missed", phases=[phase]).write(path)
    assert Result.read(path).phases == [phase]
    record = json.loads(path.read_text())
    for place, name in ((record["layers"][0], "reason"), (record, "error")):
        del place[name]
    for name in ("class_accuracy", "warnings", "missed"):
        del record["phases"][0][name]
    path.write_text(json.dumps(record))
    read = Result.read(path)
    assert read.phases == [PhaseResult("dense", 0.75, macs=100, class_accuracy={})]
    assert (read.layers[0].rank, read.layers[0].reason, read.error, read.dense) == ([3, 4], "", None, None)


def test_the_dense_network_is_read_as_a_phase_is(tmp_path: Path) -> None:
    path, dense = tmp_path / "result.json", PhaseResult("initial", macs=200, warnings=["drawn"])
    example(dense=dense).write(path)
    assert Result.read(path).dense == dense
    assert Result.read(path).beside_dense() == {"macs_ratio": 0.5}
    for value, message in (
        ({"name": "a", "macs": -1}, r"dense\.macs must be a number from 0"),
        ({"macs": 1}, "dense lacks name"),
        (3, "dense must be a mapping or null, got 3"),
    ):
        record = json.loads(path.read_text()) | {"dense": value}
        (tmp_path / "other.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            Result.read(tmp_path / "other.json")


def test_accuracies_by_class_keep_the_order_of_the_labels_and_the_folder_is_not_written(tmp_path: Path) -> None:
    by_class = {"zebra": 0.5, "ant": None, "mole": 1.0}
    example(phases=[PhaseResult("dense", class_accuracy=by_class)]).write(tmp_path / "job" / "result.json")
    read = Result.read(tmp_path / "job" / "result.json")
    assert list(read.phases[0].class_accuracy.items()) == [("zebra", 0.5), ("ant", None), ("mole", 1.0)]
    assert read.folder == tmp_path / "job"
    assert "folder" not in json.loads((tmp_path / "job" / "result.json").read_text())


def test_gather_sorts_by_path_and_takes_each_file_once(tmp_path: Path) -> None:
    for name, seed in (("b", 2), ("a/x", 1), ("c", 3)):
        example(seed=seed).write(tmp_path / name / "result.json")
    every, unread = gather([tmp_path / "c", tmp_path, tmp_path / "a"])
    assert ([job.seed for job in every], unread) == ([1, 2, 3], [])
    assert [job.seed for job in gather([tmp_path / "c"])[0]] == [3]


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"null", "the result must be a mapping, got NoneType"),
        (deep(100_000).encode(), "is nested more than 50 deep"),
        (b'{"a": %s}' % deep(500).encode(), "is nested more than 50 deep"),
        (b'{"a": %s}' % (b"9" * 5000), "is not JSON"),
        (b'{"foreign": true}', "the result lacks config, experiment, fingerprint"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_gather_goes_on_beside_a_file_that_is_not_a_result(tmp_path: Path, text: bytes, message: str) -> None:
    example().write(tmp_path / "good" / "result.json")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_bytes(text)
    results, (line,) = gather([tmp_path])
    assert results == [example()]
    assert str(tmp_path / "bad" / "result.json") in line
    assert message in line


def test_gather_goes_on_beside_what_is_not_a_file(tmp_path: Path) -> None:
    example().write(tmp_path / "good" / "result.json")
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    for name in ("link", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "result.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "size").mkdir()
    with open(tmp_path / "size" / "result.json", "wb") as file:
        file.truncate(2**26 + 1)
    results, unread = gather([tmp_path])
    assert results == [example()]
    assert [line.partition(str(tmp_path))[2] for line in sorted(unread)] == [
        "/folder/result.json is not a file: move it away",
        "/link/result.json cannot be read: No such file or directory",
        "/pipe/result.json is not a file: move it away",
        "/size/result.json has 67,108,865 bytes, a result at most 67,108,864: move it away",
    ]


@cells(
    ("place", "change", "message"),
    [
        ("phases", {"accuracy": [1]}, r"phases\[0\].accuracy must be a number from 0 to 1 or null, got list"),
        ("phases", {"accuracy": "abc"}, r"accuracy must be a number from 0 to 1 or null, got 'abc'"),
        ("phases", {"accuracy": -1}, r"accuracy must be .*, got -1"),
        ("phases", {"val_accuracy": 1e308}, r"val_accuracy must be .*, got 1e\+308"),
        ("phases", {"top5": True}, r"top5 must be .*, got True"),
        ("phases", {"macs": math.nan}, r"macs must be a number from 0 to 1e\+38 or null, got nan"),
        ("phases", {"seconds": math.inf}, r"seconds must be .*, got inf"),
        ("phases", {"loss": 10**60}, r"loss must be .*, got 10000"),
        ("phases", {"values": None}, r"values must be a mapping of names to a number from -1e\+38 to 1e\+38 or null"),
        ("phases", {"values": {"a": "b"}}, r"values must be a mapping of names to .*, got dict"),
        ("phases", {"class_accuracy": {"a": 2}}, r"class_accuracy must be a mapping of names to a number from 0 to 1"),
        ("phases", {"name": None}, r"phases\[0\].name must be a text, got None"),
        ("phases", {"key": 5}, r"key must be a text, got 5"),
        ("phases", {"warnings": [1]}, r"warnings must be a list of words, got list"),
        ("phases", {"missed": "no"}, r"missed must be true or false, got 'no'"),
        ("layers", {"rank": "4"}, r"layers\[0\].rank must be a whole number .* or a list or null, got '4'"),
        ("layers", {"macs_before": -3}, r"layers\[0\].macs_before must be .*, got -3"),
        ("layers", {"reason": None}, r"layers\[0\].reason must be a text"),
        (None, {"seed": None}, r"seed must be a whole number from .*, got None"),
        (None, {"seed": "1"}, r"seed must be a whole number from .*, got '1'"),
        (None, {"seed": 1.5}, r"seed must be a whole number from .*, got 1.5"),
        (None, {"method": 5}, r"method must be a text, got 5"),
        (None, {"experiment": 5}, r"experiment must be a text or null, got 5"),
        (None, {"row": ["a"]}, r"row must be a text or null, got list"),
        (None, {"fingerprint": None}, r"fingerprint must be a text"),
        (None, {"environment": None}, r"environment must be a mapping"),
        (None, {"error": 5}, r"error must be a text or null, got 5"),
        (None, {"status": 5}, r"status must be a text, got 5"),
        (None, {"status": "a" * 1000}, r"status of a result is one of ok, .*, got 'aaa"),
        (None, {"phases": [5]}, r"phases\[0\] must be a mapping, got int"),
        (None, {"layers": None}, r"layers must be a list, got None"),
        (None, {"\x1b[31mred": 5}, r"has unknown fields \x1b\[31mred"),
    ],
)
def test_types_and_ranges_of_every_field_are_checked(tmp_path: Path, place: str | None, change: dict, message: str):
    path = tmp_path / "result.json"
    example().write(path)
    record = json.loads(path.read_text())
    (record if place is None else record[place][0]).update(change)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as caught:
        Result.read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_negative_seeds_and_figures_are_read(tmp_path: Path) -> None:
    result = example(seed=-1, phases=[PhaseResult("agree", values={"spearman": -0.5, "none": None})])
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


def test_gather_refuses_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        gather([tmp_path / "nowhere"])


def test_digest_is_sha256_of_the_canonical_text() -> None:
    assert digest({"b": [1, None], "a": "ü"}) == hashlib.sha256(b'{"a":"\\u00fc","b":[1,null]}').hexdigest()
    with pytest.raises(ValueError, match="only plain data"):
        digest({"a": object()})


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def reversed_keys(value: object) -> object:
    if isinstance(value, dict):
        return {key: reversed_keys(item) for key, item in reversed(value.items())}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=4), plain, max_size=5))
def test_fingerprint_does_not_depend_on_order(config: dict) -> None:
    assert fingerprint(config) == fingerprint(reversed_keys(config))
    assert len(fingerprint(config)) == 16


CONFIG = {"seed": 0, "rank": {"macs": 0.5}, "data": {"size": 32}, "method": {"order": ["train", "factorize"]}}


@cells("key", EXCLUDED)
def test_excluded_keys_do_not_change_the_fingerprint(key: str) -> None:
    first, _, second = key.partition(".")
    inside = {**CONFIG[first], second: "x"} if second else "x"
    assert fingerprint({**CONFIG, first: inside}) == fingerprint(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"rank": {"macs": 0.25}},
        {"rank": {"macs": 0.5, "device": "cpu"}},
        {"data": {"size": 28}},
        {"data": {"size": 32, "augment": True}},
        {"method": {"order": ["factorize", "train"]}},
        {"progress_bar": 1},
    ],
)
def test_other_keys_change_the_fingerprint(changes: dict) -> None:
    assert fingerprint({**CONFIG, **changes}) != fingerprint(CONFIG)


def test_deciding_leaves_its_argument_alone() -> None:
    config = {"seed": 0, "device": "cpu", "data": {"size": 32, "download": True}}
    assert deciding(config) == {"seed": 0, "data": {"size": 32}}
    assert config == {"seed": 0, "device": "cpu", "data": {"size": 32, "download": True}}
