"""Times on disk."""

import json
import logging

import pytest

from lowrank_exp.rank.times.store import TimeStore

KEY = {"machine": "a", "threads": 1}


def _measured(asked):
    def measure(names):
        asked.append(names)
        return {name: 1.5 * len(name) for name in names}

    return measure


def test_what_was_measured_is_not_measured_again(tmp_path):
    asked = []
    assert TimeStore(tmp_path).table(KEY, ["a", "bb"], _measured(asked)) == {"a": 1.5, "bb": 3.0}
    assert TimeStore(tmp_path).table(KEY, ["bb", "ccc"], _measured(asked)) == {"bb": 3.0, "ccc": 4.5}
    assert asked == [["a", "bb"], ["ccc"]]


def test_other_conditions_have_other_times(tmp_path):
    store, asked = TimeStore(tmp_path), []
    store.table(KEY, ["a"], _measured(asked))
    store.table(KEY | {"threads": 2}, ["a"], _measured(asked))
    assert asked == [["a"], ["a"]]


def test_without_a_folder_times_are_kept_in_memory():
    store, asked = TimeStore(), []
    store.table(KEY, ["a"], _measured(asked))
    assert store.table(KEY, ["a"], _measured(asked)) == {"a": 1.5}
    assert asked == [["a"]]


@pytest.mark.parametrize("damage", ["", "{", "[1]", "changed"])
def test_a_damaged_file_is_measured_anew_and_said(tmp_path, caplog, damage):
    TimeStore(tmp_path).table(KEY, ["a"], _measured([]))
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    path.write_text(text.replace("1.5", "1.4") if damage == "changed" else damage)
    asked = []
    with caplog.at_level(logging.WARNING):
        assert TimeStore(tmp_path).table(KEY, ["a"], _measured(asked)) == {"a": 1.5}
    assert asked == [["a"]]
    assert f"{path} is damaged" in caplog.text
    assert json.loads(path.read_text())["ms"] == {"a": 1.5}


def test_what_is_forgotten_is_measured_again(tmp_path):
    for store in (TimeStore(), TimeStore(tmp_path)):
        asked = []
        store.table(KEY, ["a"], _measured(asked))
        store.forget(KEY)
        store.table(KEY, ["a"], _measured(asked))
        assert asked == [["a"], ["a"]]
        store.forget({"machine": "never seen"})
