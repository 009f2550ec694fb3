"""Which accuracies can be told apart: differences beside their standard errors over the seeds.

Two means are told apart where they differ by more than two standard errors of their difference. Of a row and its dense
network, which are paired by the seed, it is `s / sqrt(n)` with the standard deviation s of the changes; of two rows
Welch's, `sqrt(s1^2 / n1 + s2^2 / n2)`. A single seed has no spread, so nothing is tested there. The spread is that of
the seeds alone: all rows see the same test images.
"""

import math

import pandas as pd

ERRORS = 2.0  # standard errors
ROUNDING = 1e-12  # in means of equal accuracies
ONE_SEED = "one seed"  # in the place of an answer
MARK = "≈"
CHANGE, OTHERS = "accuracy_change_distinguishable", "not_distinguishable_from"  # columns of the CSV
EXPLAINED = (
    f"{MARK}: not told apart, as the accuracies differ by two standard errors at most (change: of the mean change over "
    f"seeds; rows, by their number: Welch's). {ONE_SEED}: cannot be tested. The spread is that of the seeds alone, not "
    "that of the test images."
)
UNTESTED = "Every row has one seed: no difference between accuracies can be tested."


def standard_error(std: float, n: int, other_std: float = 0.0, other_n: int = 1) -> float:
    """Of the difference of two independent means, Welch's `sqrt(s1^2 / n1 + s2^2 / n2)`; of one mean `s / sqrt(n)`.

    >>> standard_error(0.5, 4), round(standard_error(0.3, 9, 0.8, 4), 9)
    (0.25, 0.412310563)
    """
    return math.hypot(std / math.sqrt(n), other_std / math.sqrt(other_n))


def alike(difference: float, error: float) -> bool:
    """Whether a difference is two standard errors at most; NaN, which was not measured, is not."""
    return abs(difference) <= ERRORS * error + ROUNDING


def with_distinguished(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `table` with two columns more.

    `accuracy_change_distinguishable`: whether the row is told from its dense network: yes, no, `one seed`, or empty
    where it was not measured. `not_distinguishable_from`: the labels of the other rows of its experiment that it is not
    told from, `one seed`, or `none`; empty where there is no other row of several seeds.
    """
    labels = [str(label) for label in frame["configuration"]]
    others = [
        found if isinstance(found, str) else "; ".join(labels[place] for place in found) for found in _others(frame)
    ]
    more = pd.DataFrame({CHANGE: _change(frame), OTHERS: others}, index=frame.index)
    return pd.concat([frame, more], axis=1)


def numbers(frame: pd.DataFrame) -> list[str]:
    """For every row of one experiment the numbers, from 1, of the rows it is not told from, or what stands there."""
    return [found if isinstance(found, str) else ranges([place + 1 for place in found]) for found in _others(frame)]


def testable(frame: pd.DataFrame) -> bool:
    """Whether any row has several seeds."""
    return bool((frame["n"] > 1).any())


def ranges(places: list[int]) -> str:
    """Ascending whole numbers, neighbours drawn together.

    >>> ranges([1, 2, 3, 7])
    '1-3 7'
    """
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _change(frame: pd.DataFrame) -> list[str]:
    answers = []
    for mean, std, n in zip(frame["accuracy_change_mean"], frame["accuracy_change_std"], frame["n"], strict=True):
        told = "no" if n > 1 and alike(mean, standard_error(std, n)) else "yes"
        answers.append("" if math.isnan(mean) else ONE_SEED if n == 1 else told)
    return answers


def _others(frame: pd.DataFrame) -> list[list[int] | str]:
    """For every row the places of those that it is not told from, or what stands there instead."""
    rows = list(
        zip(frame["experiment"].fillna(""), frame["accuracy_mean"], frame["accuracy_std"], frame["n"], strict=True)
    )
    tested = [n > 1 and not math.isnan(mean) for _, mean, _, n in rows]
    answers: list[list[int] | str] = []
    for place, (experiment, mean, std, n) in enumerate(rows):
        beside = [k for k, row in enumerate(rows) if tested[k] and k != place and row[0] == experiment]
        if not tested[place] or not beside:
            answers.append(ONE_SEED if n == 1 and not math.isnan(mean) else "")
            continue
        same = [k for k in beside if alike(mean - rows[k][1], standard_error(std, n, rows[k][2], rows[k][3]))]
        answers.append(same or "none")
    return answers
