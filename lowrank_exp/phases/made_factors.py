"""Weights that were set to zero when a phase made factors, counted for its result."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from lowrank_exp.network.subnormals import SubnormalWarning
from lowrank_exp.phases.phase import Done

VALUE = "subnormals"  # the name of the figure


@contextmanager
def noted_subnormals() -> Iterator[list[SubnormalWarning]]:
    """What is said of subnormal weights inside, instead of being shown; other warnings are shown when it ends."""
    noted: list[SubnormalWarning] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", SubnormalWarning)
        yield noted
    for one in heard:
        if isinstance(one.message, SubnormalWarning):
            noted.append(one.message)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def with_subnormals(done: Done, noted: list[SubnormalWarning]) -> Done:
    """What a phase did, with the count of weights that were set to zero and a warning, where there were some."""
    if not noted:
        return done
    values = done.values | {VALUE: sum(one.count for one in noted)}
    return replace(done, values=values, warnings=[*done.warnings, *map(str, noted)])
