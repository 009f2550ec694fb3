import pytest

from lowrank_exp.files import copy_whole, written_whole


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with written_whole(target) as temporary:
        temporary.write_text("one")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "one"

    def fail():
        with written_whole(target) as temporary:
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
