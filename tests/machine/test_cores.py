"""How many cores a process may use, and what else decides its threads."""

import os
from pathlib import Path

import pytest

from lowrank_exp.cli import use_threads
from lowrank_exp.machine import cores as machine


@pytest.fixture
def threads(monkeypatch) -> list[int]:
    """What torch is told."""
    told: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", told.append)
    monkeypatch.setattr("lowrank_exp.cli.count_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return told


@pytest.mark.parametrize(
    ("variable", "given", "side_by_side", "expected"),
    [
        (None, None, 1, 4),
        (None, None, 2, 2),
        (None, None, 9, 1),
        ("1", None, 1, 1),
        ("3,2", None, 1, 3),
        ("2", None, 2, 2),
        ("64", None, 1, 4),
        ("none", None, 1, 4),
        ("0", None, 1, 4),
        ("1", 3, 1, 3),
    ],
)
def test_threads(threads, monkeypatch, variable, given, side_by_side, expected):
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    use_threads(given, side_by_side)
    assert threads == [expected]


def test_more_threads_than_cores_must_be_forced(threads):
    with pytest.raises(ValueError, match=r"threads=5 is more than the 4 cores here: 1 to 4, or force_threads=true"):
        use_threads(5, 1)
    use_threads(5, 1, force=True)
    assert threads == [5]
    with pytest.raises(ValueError, match="threads=1000000 is more than the 1024 that are sound here: 1 to 1024"):
        use_threads(1_000_000, 1, force=True)
    assert threads == [5]


def groups(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("of", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/elsewhere\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "4:cpu,cpuacct:/j\n1:name=systemd:/\n",
            {"cpu,cpuacct/j/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/j/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_share_of_a_control_group(tmp_path, of, files, expected):
    (tmp_path / "of").write_text(of)
    assert machine._quota(groups(tmp_path / "root", files), tmp_path / "of") == expected


@pytest.mark.parametrize(
    ("quota", "given", "cores"),
    [(None, None, 8), (2.5, None, 3), (0.5, None, 1), (64.0, None, 8), (None, "4", 4), (2.5, "4", 3), (None, "16", 8)],
)
def test_cores_are_those_that_the_container_has_time_for_and_slurm_has_given(monkeypatch, quota, given, cores):
    if given is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    assert machine.count_cores() == cores
