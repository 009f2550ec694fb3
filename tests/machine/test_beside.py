import time

import pytest

from lowrank_exp.machine import beside

HEADER = "cpu  {user} 10 30 {idle} 50 1 2 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose counters, in hundredths of a second, and whose process are told."""
    stat, read = tmp_path / "stat", beside._spent

    def tell(user, idle, steal=0, own=0.0):
        stat.write_text(HEADER.format(user=user, idle=idle, steal=steal), encoding="utf-8")
        monkeypatch.setattr(time, "process_time", lambda: own)

    monkeypatch.setattr(beside, "_spent", lambda: read(stat))
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    tell(1000, 2000)
    return tell


def test_the_share_of_others_is_what_is_busy_less_what_is_ones_own(machine):
    share = beside.others_beside()
    machine(1050, 2050, own=0.2)
    assert share() == pytest.approx((0.5 - 0.2) / 1.0)
    machine(1050, 2050, own=0.5)
    assert share() == 0.0
    machine(1050, 2050, own=0.51)  # rounding
    assert share() == 0.0
    machine(1000, 2060, steal=40)
    assert share() == pytest.approx(0.4)


def test_no_share_is_told_before_a_tick_is_over_or_where_there_are_none(machine, monkeypatch, tmp_path):
    share = beside.others_beside()
    assert share() is None
    machine(1001, 2000)
    assert share() == pytest.approx(1.0)
    monkeypatch.setattr(beside, "_spent", lambda: None)
    assert share() is None
    assert beside.others_beside()() is None


def test_counters_that_are_missing_or_odd_tell_nothing(tmp_path):
    odd = tmp_path / "stat"
    odd.write_text("cpu  1 2\n", encoding="utf-8")
    assert beside._spent(odd) is None
    odd.write_text("", encoding="utf-8")
    assert beside._spent(odd) is None
    assert beside._spent(tmp_path / "none") is None
