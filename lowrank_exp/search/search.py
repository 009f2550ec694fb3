"""A search from its first trial to its front, with a launcher of Hydra's to run the jobs.

One process leads a search; another one with the same command waits, and then finds it done. A trial is asked of Optuna,
its job is run like any other one, and told what its `result.json` says. So a killed search goes on from its database:
trials that were running are run again, from their last epoch, and finished jobs are read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from lowrank_exp.command_line.keys.kinds import Context
from lowrank_exp.command_line.keys.root import SWEEPER
from lowrank_exp.command_line.mistakes import explained
from lowrank_exp.files.exclusion import hold_lock, share
from lowrank_exp.files.results import RESULT, Result, digest
from lowrank_exp.files.searches import PRUNED, Search, costs_of
from lowrank_exp.job.launching import jobs_side_by_side
from lowrank_exp.search.front import say, show_front, shown
from lowrank_exp.search.space import Space, read_space
from lowrank_exp.search.study import END, JOB, make_sampler, open_study, trials_of, unfinished

HOPELESS_SEARCH = 3  # so many trials that fail, and none that does not, end it: the mistake is in what they share


def search(config: DictConfig, loader: ConfigLoader, launcher: Launcher, overrides: Sequence[str]) -> None:
    """Run a search, or what is missing of it, and show its front.

    Args:
        config: composed, without what is searched.
        loader: composes the trials.
        launcher: runs them.
        overrides: fixed and searched ones.

    Raises:
        ValueError: a mistake in the options or the space, or trials that all fail.
    """
    options = check_options(config)
    space = read_space(overrides, loader)
    subdir = Path(config.hydra.sweep.subdir)  # of the job as far as it is fixed: <experiment or runs>/<fingerprint>
    told = {name: getattr(options, name) for name in ("objectives", "sampler", "startup", "seed", "pruner")}
    told |= {"rivals": options.rivals, "warmup": options.warmup} if options.pruner else {}
    name = digest({"fixed": subdir.name, "searched": space.written, **told})[:8]
    file = Path(config.hydra.sweep.dir) / subdir.parent / f"search-{name}.json"
    share(config.store.shared, config.store.silent)
    with hold_lock(file.with_name(f".{file.stem}.lock"), lambda: say(f"waiting for the process that leads {file}")):
        study = open_study(options.storage, f"{subdir.parent.name}-{name}", options.objectives)
        _Search(config, loader, launcher, space, options, study, file).run()


def check_options(config: DictConfig) -> SimpleNamespace:
    """The options of the search. Raises ValueError for one that is not allowed, or an objective nobody measures."""
    options: Any = OmegaConf.to_container(config.sweeper, resolve=True)
    SWEEPER.check(options, "sweeper", Context())
    if "val_accuracy" not in options["objectives"] or len(set(options["objectives"])) < len(options["objectives"]):
        raise ValueError(
            f"sweeper.objectives=[{','.join(options['objectives'])}] is refused: val_accuracy is one of them, each "
            "stands once, and test images decide nothing. Write for instance sweeper.objectives=[val_accuracy,macs]"
        )
    for name in ("dry_run", "stop_after"):
        if config[name]:
            raise ValueError(f"{name}={config[name]} in a search: its jobs have no results to choose by. Leave it out")
    if "latency_ms" in options["objectives"] and not config.latency.seconds:
        raise ValueError("sweeper.objectives has latency_ms, and latency.seconds=0 leaves it out: give it some")
    return SimpleNamespace(**options | {"batch": options["batch"] or jobs_side_by_side(config.hydra, config.launcher)})


class _Search:
    """One search at work."""

    def __init__(
        self,
        config: DictConfig,
        loader: ConfigLoader,
        launcher: Launcher,
        space: Space,
        options: SimpleNamespace,
        study: optuna.Study,
        file: Path,
    ) -> None:
        self.config, self.loader, self.launcher = config, loader, launcher
        self.space, self.options, self.study, self.file = space, options, study, file
        self.launched = 0
        self.ended = {"well": 0, "failed": 0}  # trials, in this process

    def run(self) -> None:
        """Trials in batches until there are as many as asked for, then the front."""
        self.write()
        left = unfinished(self.study)
        while batch := self.next_batch(left):
            left = []
            self.run_batch(batch)
            self.write()
            if self.ended["failed"] >= HOPELESS_SEARCH and not self.ended["well"]:
                raise ValueError(
                    f"{self.ended['failed']} trials of the search have failed and none has ended well; the last one: "
                    f"{self.record().trials[batch[-1].number].reason}"
                )
        show_front(self.record(), self.file)

    def record(self) -> Search:
        """The search as it stands."""
        options = self.options
        trials = trials_of(self.study, options.objectives)
        rivals = options.rivals if options.pruner else None
        return Search(self.study.study_name, list(options.objectives), rivals, options.warmup, trials)

    def write(self) -> None:
        """What jobs and reports read of it."""
        self.record().write(self.file)

    def next_batch(self, left: list[optuna.Trial]) -> list[optuna.Trial]:
        """Trials that were left over, filled up with new ones. A batch begins at a multiple of its size, so that a
        search that was killed chooses its trials after the same results."""
        batch, there = list(left), len(self.study.get_trials(deepcopy=False))
        while there < self.options.trials and (there % self.options.batch or not batch):
            self.study.sampler = make_sampler(self.options, there)
            batch.append(self.study.ask())
            self.space.overrides_of(batch[-1])  # drawn now: the next one knows of it
            there += 1
        return batch

    def run_batch(self, batch: Sequence[optuna.Trial]) -> None:
        """Run the jobs of some trials and tell what came of each."""
        jobs: list[tuple[optuna.Trial, list[str], Path]] = []
        for trial in batch:
            self.study.sampler = make_sampler(self.options, trial.number)
            typed = self.space.overrides_of(trial)
            try:
                overrides = [*typed, f"sweeper.file={_quoted(self.file.absolute())}"]
                job = self.loader.load_sweep_config(master_config=self.config, sweep_overrides=overrides)
                folder = Path(job.hydra.sweep.dir, job.hydra.sweep.subdir)
            except Exception as error:  # these values cannot be composed
                self.fail(trial, explained(error))
                continue
            told = [one for one in typed if not one.lstrip("+").startswith(("sweeper", "launcher"))]
            trial.set_user_attr(JOB, {"overrides": told, "fingerprint": folder.name})
            jobs.append((trial, overrides, folder))
        self.write()
        if not jobs:
            return
        try:
            returned = list(self.launcher.launch([one for _, one, _ in jobs], initial_job_idx=self.launched))
        except Exception as error:  # of a launcher that raises its jobs' errors: their results say more
            returned = [JobReturn(status=JobStatus.FAILED, _return_value=error) for _ in jobs]
        self.launched += len(jobs)
        for (trial, _, folder), one in zip(jobs, returned, strict=True):
            self.tell(trial, folder, one)

    def tell(self, trial: optuna.Trial, folder: Path, returned: JobReturn) -> None:
        """What came of a trial's job, as its result says."""
        error = returned._return_value if returned.status == JobStatus.FAILED else None
        try:
            result = Result.read(folder / RESULT)
        except (OSError, ValueError) as unread:
            return self.fail(trial, explained(error or unread))
        if result.status == "interrupted":
            return say(f"trial {trial.number} {result.error or 'was interrupted'}")
        if result.status == PRUNED:
            return self.end(trial, TrialState.PRUNED, [], {"reason": result.error or PRUNED})
        if not result.complete or (error is not None and result.status != "missed"):
            return self.fail(trial, explained(error) if error is not None else last_line(result.error))
        values = {name: getattr(result.phases[-1], name) for name in self.options.objectives}
        if lacking := [name for name, value in values.items() if value is None]:
            why = "there are no validation images" if lacking[0] == "val_accuracy" else "it was not measured"
            return self.fail(trial, f"{lacking[0]} is not known of the network after the last phase: {why}")
        return self.end(trial, TrialState.COMPLETE, list(values.values()), curve_of(result))

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """The trial has failed; the search goes on."""
        self.end(trial, TrialState.FAIL, [], {"reason": reason})

    def end(self, trial: optuna.Trial, state: TrialState, values: list[float], told: Mapping[str, Any]) -> None:
        """Write down how a trial ended, and say so."""
        self.ended["failed" if state == TrialState.FAIL else "well"] += 1
        trial.set_user_attr(END, dict(told))
        self.study.tell(trial, values or None, state)
        figures = [f"{name} {shown(name, value)}" for name, value in zip(self.options.objectives, values, strict=False)]
        words = {TrialState.FAIL: "failed: ", TrialState.PRUNED: "pruned: "}
        say(f"trial {trial.number}: {words.get(state, '')}{', '.join(figures) or told['reason']}")


def curve_of(result: Result) -> dict[str, Any]:
    """Of the last phase that trained its name, its curve, and the costs of the network that it began with."""
    for place, phase in reversed(list(enumerate(result.phases))):
        curve = [metrics.get("val_accuracy") for metrics in phase.history]
        if curve and None not in curve:
            return {"phase": phase.name, "curve": curve, "costs": costs_of(result.phases[:place])}
    return {}


def last_line(error: str | None) -> str:
    """The last line of a traceback."""
    return ((error or "").strip().splitlines() or ["it failed, and does not say why"])[-1]


def _quoted(path: Path) -> str:
    """A path as a value of Hydra's grammar."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
