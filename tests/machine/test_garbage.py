"""How often Python looks for garbage."""

import gc

from lowrank_exp.machine.garbage import SELDOM, seldom_collecting


def test_looks_are_seldom_within_and_as_often_as_before_thereafter() -> None:
    before = gc.get_threshold()
    with seldom_collecting():
        assert gc.get_threshold() == (SELDOM, *before[1:])
    assert gc.get_threshold() == before
