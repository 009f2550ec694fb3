"""Leases of processes that believe to be on different hosts."""

import json
import os
import subprocess
import sys

import pytest

from lowrank_exp.files import exclusion, lease
from lowrank_exp.files.exclusion import hold_lock, is_held, share
from lowrank_exp.files.lease import Heart, Lease


@pytest.fixture
def now(monkeypatch):
    """The clock of the file system, in a list; every other clock is real."""
    time, utime = [1e9], os.utime
    monkeypatch.setattr(os, "utime", lambda path, times=None: utime(path, times or (time[0], time[0])))
    return time


@pytest.fixture
def shared():
    share(True, 60.0)
    yield
    share(None, 120.0)


def at(host, monkeypatch):
    """From here on this process believes to be on that host."""
    for module in ("lease", "owner"):
        monkeypatch.setattr(f"lowrank_exp.files.{module}.host", lambda: host)


def test_a_lease_is_anothers_until_it_was_silent(tmp_path, now, monkeypatch):
    path = tmp_path / "a.lease"
    at("one", monkeypatch)
    first = Lease(path, 60)
    assert first.take()
    at("two", monkeypatch)
    second = Lease(path, 60)
    assert not second.take()
    now[0] += 50
    assert first.renew()
    now[0] += 50
    assert second.is_held()
    assert not second.take()
    now[0] += 11
    assert second.take()
    assert json.loads(path.read_text())["host"] == "two"
    assert not first.renew()  # it was slow, and learns it here
    first.release()
    assert second.renew()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_a_process_that_is_gone_is_taken_at_once(tmp_path, now):
    path = tmp_path / "a.lease"
    script = (
        "import sys; from pathlib import Path; from lowrank_exp.files.lease import Lease;"
        "print(Lease(Path(sys.argv[1]), 60).take())"
    )
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"
    now[0] = path.stat().st_mtime
    assert Lease(path, 60).take()
    assert json.loads(path.read_text())["process"] == os.getpid()


def test_one_that_is_half_written_is_taken_over_when_it_is_old(tmp_path, now):
    path = tmp_path / "a.lease"
    path.touch()
    os.utime(path)
    assert not Lease(path, 60).take()
    now[0] += 61
    assert Lease(path, 60).take()


def test_one_that_was_taken_anew_meanwhile_is_put_back(tmp_path, now, monkeypatch):
    path = tmp_path / "a.lease"
    at("one", monkeypatch)
    assert Lease(path, 60).take()
    now[0] += 61
    at("two", monkeypatch)
    quick, slow = Lease(path, 60), Lease(path, 60)
    take_away = lease.take_away

    def after_the_other(path):
        monkeypatch.setattr(lease, "take_away", take_away)
        assert quick.take()
        return take_away(path)

    monkeypatch.setattr(lease, "take_away", after_the_other)
    assert slow.is_held()
    assert quick.renew()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lease"]


def test_a_heart_renews_until_the_lease_is_anothers(tmp_path):
    path = tmp_path / "a.lease"
    mine = Lease(path, 0.06)
    assert mine.take()
    os.utime(path, (0, 0))
    heart = Heart(mine)
    while path.stat().st_mtime == 0:
        pass
    path.write_text("{}")
    heart._thread.join(10)
    assert not heart._thread.is_alive()
    heart.stop()


def test_folders_that_are_shared_have_leases_and_others_locks(tmp_path, shared, monkeypatch):
    lock = tmp_path / "a.lock"
    assert not is_held(lock)
    at("one", monkeypatch)
    with hold_lock(lock, pytest.fail):
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.lease"]
        at("two", monkeypatch)
        assert is_held(lock)
        at("one", monkeypatch)
    assert not is_held(lock)
    share(False, 60.0)
    with hold_lock(lock, pytest.fail):
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.lock"]
        assert is_held(lock)
    assert not is_held(lock)


def test_who_waits_says_so_once_and_goes_on(tmp_path, shared, now, monkeypatch):
    lock, told = tmp_path / "a.lock", []
    at("one", monkeypatch)
    other = Lease(tmp_path / "a.lease", 60)
    assert other.take()
    at("two", monkeypatch)

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(exclusion.time, "sleep", sleep)
    with hold_lock(lock, lambda: told.append("waiting")):
        assert now[0] > 1e9 + 60
    assert told == ["waiting"]
