"""The database of a search: Optuna's, in which every trial is written down as it is chosen and as it ends.

What is ours of a trial, such as its curve, lies there as its attributes; `search-<hash>.json` is made of the database.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lowrank_exp.files.results import digest
from lowrank_exp.files.searches import COMPLETE, FAILED, PRUNED, UNFINISHED, Trial

STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
JOB, END = "job", "end"  # attributes of a trial: what is ours of it, written as it begins and as it ends


def open_study(storage: str, name: str, objectives: Sequence[str]) -> optuna.Study:
    """The study of a name, as far as it got.

    Raises:
        ValueError: the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection.MAXIMIZE if one == "val_accuracy" else StudyDirection.MINIMIZE for one in objectives]
    try:
        return optuna.create_study(
            study_name=name, storage=_opened(storage), directions=directions, load_if_exists=True
        )
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise ValueError(
            f"sweeper.storage={storage} cannot be used ({words}): name a file, such as outputs/searches.db, or move "
            "the one there away"
        ) from error


def _opened(storage: str) -> BaseStorage:
    if "://" in storage:
        return RDBStorage(storage)
    path = Path(storage).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return (
        JournalStorage(JournalFileBackend(str(path))) if path.suffix == ".journal" else RDBStorage(f"sqlite:///{path}")
    )


def make_sampler(options: Any, number: int) -> BaseSampler:
    """The sampler of one trial. Its draws hang on the trial's number, so a search that was killed draws the same."""
    seed = int(digest([options.seed, number])[:8], 16)
    if options.sampler == "random":
        return RandomSampler(seed)
    if options.sampler == "nsga2":
        return NSGAIISampler(population_size=max(2, options.startup), seed=seed)
    return TPESampler(n_startup_trials=options.startup, seed=seed)


def unfinished(study: optuna.Study) -> list[optuna.Trial]:
    """The trials that were running, or were still to be run, when the process that led the search ended."""
    there = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return [optuna.Trial(study, trial._trial_id) for trial in there]


def trials_of(study: optuna.Study, objectives: Sequence[str]) -> list[Trial]:
    """All trials, as they stand."""
    return [_of_optuna(trial, objectives) for trial in study.get_trials(deepcopy=False)]


def _of_optuna(trial: FrozenTrial, objectives: Sequence[str]) -> Trial:
    state = STATES.get(trial.state, UNFINISHED)
    values = dict(zip(objectives, trial.values, strict=True)) if state == COMPLETE else {}
    ours = trial.user_attrs.get(JOB, {}) | trial.user_attrs.get(END, {})
    return Trial(trial.number, state, values=values, **ours)
