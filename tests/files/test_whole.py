import os
import subprocess
import sys

import pytest
import torch

from lowrank_exp.files.owner import host
from lowrank_exp.files.whole import (
    check_sums,
    copy_whole,
    file_digest,
    find_difference,
    sweep_parts,
    write_whole,
    write_whole_together,
)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with write_whole(target) as temporary:
        temporary.write_text("one")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "one"

    def fail():
        with write_whole(target) as temporary:
            temporary.write_text("half of two")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "one"
    assert [entry.name for entry in target.parent.iterdir()] == ["file.txt"]


def test_a_copy_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"older and longer")
    copy_whole(source, target)
    assert target.read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        copy_whole(tmp_path / "none", target)
    assert target.read_bytes() == b"new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source", "target"]


def test_what_dead_processes_left_half_written_is_swept(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, former = tmp_path / f".a.pt.{host()}.{process.pid}-0a1b.part", tmp_path / f".a.{host()}.{process.pid}.part"
    ours, elsewhere = tmp_path / f".b.pt.{host()}.{os.getpid()}-12.part", tmp_path / ".c.pt.another-host.1.part"
    forgotten = tmp_path / ".f.pt.another-host.1-ff.part"
    for path in (dead, former, ours, elsewhere, forgotten, tmp_path / "d.pt"):
        path.touch()
    os.utime(forgotten, (0, 0))
    several = tmp_path / f".e.xml.{host()}.{process.pid}-77.part"
    several.mkdir()
    (several / "e.bin").touch()
    sweep_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, elsewhere.name, "d.pt"])


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("lowrank_exp.files.whole.to_disk", lambda path: order.append((path.name[:5], path.exists())))
    with write_whole(tmp_path / "a.txt") as temporary:
        temporary.touch()
    assert order == [(".a.tx", True), (tmp_path.name[:5], True)]
    with write_whole(tmp_path / "b.txt", durable=False) as temporary:
        temporary.touch()
    assert len(order) == 2


def test_differing_files_are_named(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    digests = {name: file_digest(tmp_path / name) for name in "ab"}
    assert find_difference(tmp_path, digests) is None
    (tmp_path / "b").write_bytes(b"twO")
    assert find_difference(tmp_path, digests) == "b has changed since it was written"
    (tmp_path / "a").unlink()
    assert find_difference(tmp_path, digests) == "a is missing"


def test_check_sums_of_torch_files(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(100.0)}, path)
    check_sums(path)
    content = path.read_bytes()
    middle = content.index(torch.arange(100.0).numpy().tobytes()) + 40
    for wrong in (content[:middle] + b"?" + content[middle + 1 :], content[:middle], b"", b"text"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"has changed since it was written|not a whole file"):
            check_sums(path)
    with pytest.raises(FileNotFoundError):
        check_sums(tmp_path / "none")


def test_files_that_belong_together_come_together(tmp_path):
    target = tmp_path / "model.xml"
    with write_whole_together(target) as temporary:
        temporary.write_text("graph")
        (temporary.parent / "model.bin").write_text("weights")
        assert list(tmp_path.glob("model*")) == []
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.xml": "graph",
        "model.bin": "weights",
    }

    def fail():
        with write_whole_together(target) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.xml": "graph",
        "model.bin": "weights",
    }
