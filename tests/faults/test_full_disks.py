"""A job whose disk is full ends with a message and leaves nothing that counts as done; with room it ends right."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lowrank_exp.job.inventory import find_damage, list_items
from support.fault_jobs import DECOMPOSE, figures, into, leftovers
from support.forked import Ended, forked, lowrank_exp

FILES = (0, 1_000, 6_000, 40_000, 160_000, 300_000)  # bytes that a file may have; checkpoints have 500,000
DISKS = (100_000, 400_000, 800_000, 1_000_000)  # bytes of a disk


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Within the block a folder is a disk of one page, if this process may mount one; gives whether it is."""
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=4096", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def mount(*arguments: str) -> bool:
    """Whether the system has mounted what it was asked to."""
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def fails_cleanly(ended: Ended, outputs: Path) -> None:
    """The job has failed with a message, and all that is marked as done is whole."""
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    error = ended.said.rpartition("error: ")[2]
    assert str(outputs.parent) in error or "paths.outputs" in error, ended.said
    assert any(word in error for word in ("File too large", "No space left on device", "has room for")), ended.said
    assert [path for path in outputs.rglob("result.json") if '"status": "ok"' in path.read_text()] == []
    if (outputs / "store").is_dir():
        assert [damage for item in list_items(outputs / "store") if (damage := find_damage(item))] == []
    assert [path for path in leftovers(outputs) if path.endswith(".part")] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("undisturbed") / "outputs"
    ended = forked(lowrank_exp, *DECOMPOSE, into(outputs))
    assert ended.status == 0, ended.said
    return outputs


@pytest.mark.slow
def test_files_that_may_not_grow(undisturbed: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for largest in FILES:
        fails_cleanly(forked(lowrank_exp, *DECOMPOSE, into(outputs), largest=largest), outputs)
    assert forked(lowrank_exp, *DECOMPOSE, into(outputs)).status == 0
    assert figures(outputs) == figures(undisturbed)
    assert leftovers(outputs) == []


@pytest.mark.slow
def test_a_disk_that_is_full(undisturbed: Path, tmp_path: Path) -> None:
    """Where no disk may be mounted, files may not grow."""
    disk = tmp_path / "disk"
    outputs = disk / "outputs"
    with small_disk(disk) as mounted:
        for size in DISKS:
            if mounted:
                assert mount("-o", f"remount,size={size}", str(disk))
            ended = forked(lowrank_exp, *DECOMPOSE, into(outputs), largest=None if mounted else size // 10)
            fails_cleanly(ended, outputs)
        if mounted:
            assert mount("-o", "remount,size=100000000", str(disk))
        assert forked(lowrank_exp, *DECOMPOSE, into(outputs)).status == 0
        assert figures(outputs) == figures(undisturbed)
        assert leftovers(outputs) == []
