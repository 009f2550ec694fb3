"""Names that files get where a file system reports otherwise than it does."""

import errno
import os

import pytest

from lowrank_exp.files.owner import PART, host, is_gone, temporary
from lowrank_exp.files.place import place_first, place_folder_first, replace, take_away, time_in, touch
from lowrank_exp.files.whole import write_whole


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def reporting(monkeypatch, name, number, done=True):
    """Calls of `os.<name>` are reported as failed, though they were done."""
    call = getattr(os, name)

    def reported(*arguments, **options):
        if done:
            call(*arguments, **options)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, reported)


def test_no_two_parts_have_one_name(tmp_path):
    parts = {temporary(tmp_path / "a.pt") for _ in range(100)}
    assert len(parts) == 100
    matches = [PART.fullmatch(part.name) for part in parts]
    assert {(match[1], int(match[2])) for match in matches} == {(host(), os.getpid())}
    assert is_gone(host(), os.getpid()) is False
    assert is_gone("elsewhere", os.getpid()) is None


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT])
def test_a_rename_that_was_done_and_reported_otherwise_counts(tmp_path, monkeypatch, number):
    (tmp_path / "target").write_text("old")
    with monkeypatch.context() as patch:
        reporting(patch, "replace", number)
        with write_whole(tmp_path / "target") as part:
            part.write_text("new")
    assert files(tmp_path) == {"target": "new"}
    (tmp_path / "source").write_text("newer")
    with monkeypatch.context() as patch:
        reporting(patch, "replace", number, done=False)
        with pytest.raises(OSError, match=os.strerror(number)):
            replace(tmp_path / "source", tmp_path / "target")
    assert files(tmp_path) == {"source": "newer", "target": "new"}


@pytest.mark.parametrize("refused", [None, errno.EPERM, errno.ENOTSUP])
def test_the_first_file_stays(tmp_path, monkeypatch, refused):
    if refused is not None:
        reporting(monkeypatch, "link", refused, done=False)
    for content in ("first", "second"):
        with write_whole(tmp_path / "target", first=True) as part:
            part.write_text(content)
    assert files(tmp_path) == {"target": "first"}


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ESTALE])
def test_a_link_that_was_made_and_reported_otherwise_counts(tmp_path, monkeypatch, number):
    reporting(monkeypatch, "link", number)
    (tmp_path / "source").write_text("one")
    assert place_first(tmp_path / "source", tmp_path / "target")
    (tmp_path / "other").write_text("two")
    with monkeypatch.context() as patch:
        reporting(patch, "link", errno.EEXIST, done=False)
        assert not place_first(tmp_path / "other", tmp_path / "target")
    assert files(tmp_path)["target"] == "one"


def test_the_first_folder_stays_whole(tmp_path, monkeypatch):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    target = tmp_path / "target"
    with monkeypatch.context() as patch:
        reporting(patch, "rename", errno.ENOENT)
        assert place_folder_first(tmp_path / "one", target)
    assert not place_folder_first(tmp_path / "two", target)
    assert files(target) == {"file": "one"}
    aside = take_away(target)
    assert files(aside) == {"file": "one"}
    assert take_away(target) is None
    assert place_folder_first(tmp_path / "three", target)
    with monkeypatch.context() as patch:
        reporting(patch, "rename", errno.ESTALE)
        assert files(take_away(target)) == {"file": "three"}


def test_time_is_that_of_the_file_system(tmp_path, monkeypatch):
    clock = os.utime
    monkeypatch.setattr(os, "utime", lambda path, _=None: clock(path, (4e9, 4e9)))
    assert time_in(tmp_path) == 4e9
    (tmp_path / "a").touch()
    touch(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mtime == 4e9
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
