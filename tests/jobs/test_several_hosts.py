"""One sweep started by several processes that believe to be different hosts, over one folder."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lowrank_exp.files.results import Result
from support import hosts
from support.smoke import SMOKE

SMALL = ("data.test=0.8", "losses.images=0", "reconstruct=none", "method.order=[train,factorize]", "threads=1")
TWELVE = ("-m", *SMOKE, *SMALL, "seed=0,1,2", "rank=uniform", "rank.macs=0.4,0.5,0.6,0.7")
SHARED = ("store.shared=true", "store.silent=6")
NAMES = ("one", "two", "three", "four")


def start(folder: Path) -> subprocess.Popen:
    """The twelve jobs by four hosts."""
    arguments = [hosts.__file__, ",".join(NAMES), *TWELVE, *SHARED, "paths.outputs=outputs"]
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True)


def results(folder: Path) -> list[Result]:
    return [Result.read(path) for path in sorted(folder.glob("outputs/runs/*/result.json"))]


def computed(found: list[Result]) -> Counter:
    """How often every phase was computed, by its key."""
    return Counter(phase.key for result in found for phase in result.phases if not phase.stored)


def expect_twelve(found: list[Result]) -> None:
    assert [result.status for result in found] == ["ok"] * 12
    settings = {(result.seed, result.config["rank"]["macs"]) for result in found}
    assert settings == {(seed, macs) for seed in (0, 1, 2) for macs in (0.4, 0.5, 0.6, 0.7)}


@pytest.mark.slow
def test_four_hosts_share_twelve_jobs_and_compute_every_phase_once(tmp_path):
    process = start(tmp_path)
    lines = process.communicate(timeout=500)[0].splitlines()
    assert sorted(lines[4:]) == sorted(f"{name} 0" for name in NAMES)
    found = results(tmp_path)
    expect_twelve(found)
    times = computed(found)
    assert set(times.values()) == {1}
    assert len(times) == 3 + 12  # trained once a seed, factorized once a job
    logs = [(tmp_path / f"{name}.log").read_text() for name in NAMES]
    assert any("shared with other hosts" in said for said in logs)  # those that have computed something
    for said in logs:
        assert "[sweep] 12 of 12 jobs ended well" in said
        assert len(re.findall(r"^#\d+ .*: test [\d.]+ %, dense ", said, re.MULTILINE)) == 12
    assert not list(tmp_path.glob("outputs/**/*.lease"))
    assert not list(tmp_path.glob("outputs/**/*.part"))


@pytest.mark.slow
def test_two_of_four_hosts_are_killed_and_twelve_results_are_good(tmp_path):
    process = start(tmp_path)
    pids = dict(process.stdout.readline().split() for _ in NAMES)
    at_work = re.compile("is shared with other hosts|another process holds|^#", re.MULTILINE)
    for name in NAMES[:2]:
        while not at_work.search(_said(tmp_path, name)):
            assert process.poll() is None, {one: _said(tmp_path, one) for one in NAMES}
            time.sleep(0.02)
        os.kill(int(pids[name]), signal.SIGKILL)
    ends = dict(line.split() for line in process.communicate(timeout=500)[0].splitlines())
    assert ends == {"one": "-9", "two": "-9", "three": "0", "four": "0"}
    found = results(tmp_path)
    expect_twelve(found)
    assert "12 of 12 jobs ended well" in _said(tmp_path, "three")
    assert len(list(tmp_path.glob("outputs/store/train-*/network.pt"))) == 3


def _said(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""
