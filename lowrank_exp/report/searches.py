"""Rows that a search has found: those on its front are marked. Validation accuracy has decided, not the test's."""

from collections.abc import Sequence

import pandas as pd

from lowrank_exp.files.searches import Search
from lowrank_exp.report.configuration import Configuration

FRONT = "front"  # a column: the objectives of the search on whose front a row is


def with_front(frame: pd.DataFrame, rows: Sequence[Configuration], searches: Sequence[Search]) -> pd.DataFrame:
    """`frame` (in the order of `rows`) with a column `front`, if there are searches."""
    if not searches:
        return frame
    on_front = {trial.fingerprint: ", ".join(search.objectives) for search in searches for trial in search.front}
    jobs = [{job.fingerprint for job in row.finished} for row in rows]
    return frame.assign(**{FRONT: [next((on_front[one] for one in mine if one in on_front), "") for mine in jobs]})


def search_notes(rows: Sequence[Configuration], searches: Sequence[Search]) -> list[str]:
    """What every search that has chosen some of these rows has come to, a line each."""
    jobs = {job.fingerprint for row in rows for job in (*row.finished, *row.failed)}
    return [
        f"search {search.name} for {', '.join(search.objectives)}: {search.counted()}; its front, by validation "
        f"images, has {len(search.front)}"
        for search in searches
        if jobs & {trial.fingerprint for trial in search.trials}
    ]
