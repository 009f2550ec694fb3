"""What a search leaves behind beside its jobs: `search-<hash>.json`, its trials and their front. No torch here.

A trial is one job that a search has chosen; its `values` are those of the objectives, of the network after the job's
last phase. The objectives are accuracy on validation images and costs, never anything on test images.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from lowrank_exp.files.results import PRUNED, PhaseResult
from lowrank_exp.files.whole import write_whole

COSTS = ("macs", "weights", "parameters", "bytes", "latency_ms")  # the less the better
OBJECTIVES = ("val_accuracy", *COSTS)
COMPLETE, FAILED, UNFINISHED = "complete", "failed", "unfinished"
STATES = (COMPLETE, PRUNED, FAILED, UNFINISHED)


@dataclass(frozen=True)
class Trial:
    """One trial: what it overrides, which job that is, and what came of it.

    `values`: of every objective, where it is complete; `reason`: why it is not. `phase`: the last one that trained,
    `curve` its validation accuracies after each epoch, and `costs` those of the network that it began with.
    """

    number: int
    state: str
    overrides: list[str] = field(default_factory=list)
    fingerprint: str = ""
    values: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    phase: str = ""
    curve: list[float] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """One search. `rivals`, `warmup`: of the pruner, see `hopeless`; no `rivals`: there is none."""

    name: str
    objectives: list[str]
    rivals: int | None = None
    warmup: int = 0
    trials: list[Trial] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the whole file or nothing."""
        with write_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Search":
        """Read what `write` wrote. Raises ValueError, with the file's name, for anything else."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            search = cls(**record | {"trials": [Trial(**trial) for trial in record["trials"]]})
            known = {item.name for item in fields(Trial)}
            if not known or any(trial.state not in STATES for trial in search.trials):
                raise ValueError(f"the state of a trial is one of {', '.join(STATES)}")
            if set(search.objectives) - set(OBJECTIVES):
                raise ValueError(f"objectives are of {', '.join(OBJECTIVES)}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not the file of a search ({str(error)[:200]}): move it away") from error
        return search

    @property
    def front(self) -> list[Trial]:
        """The complete trials that no other one dominates: at least as good in every objective, and better in one.

        By falling validation accuracy, then by rising costs; of equal ones the first alone.

        >>> three = [Trial(0, "complete", values={"val_accuracy": 0.9, "macs": 30}),
        ...          Trial(1, "complete", values={"val_accuracy": 0.8, "macs": 40}),
        ...          Trial(2, "complete", values={"val_accuracy": 0.7, "macs": 20})]
        >>> [trial.number for trial in Search("", ["val_accuracy", "macs"], trials=three).front]
        [0, 2]
        """
        losses = {trial.number: self._losses(trial) for trial in self.trials if trial.state == COMPLETE}
        best = [
            trial
            for trial in self.trials
            if trial.number in losses
            and not any(
                _dominates(other, mine := losses[trial.number]) or (other == mine and number < trial.number)
                for number, other in losses.items()
            )
        ]
        return sorted(best, key=lambda trial: losses[trial.number])

    def _losses(self, trial: Trial) -> tuple[float, ...]:
        """Its values, all of them the less the better."""
        return tuple(-trial.values[name] if name == "val_accuracy" else trial.values[name] for name in self.objectives)

    def counted(self) -> str:
        """How many trials ended how, in words."""
        counts = {state: sum(trial.state == state for trial in self.trials) for state in STATES}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"{len(self.trials)} trials: {told}" if told else "no trials"


def costs_of(phases: Sequence[PhaseResult]) -> dict[str, float]:
    """The measured costs of the network after the last of some phases."""
    if not phases:
        return {}
    return {name: cost for name in COSTS if (cost := getattr(phases[-1], name)) is not None}


def hopeless(search: Search, phase: str, curve: Sequence[float], costs: Mapping[str, float]) -> str | None:
    """Why a training is not worth going on with, or None.

    Its rivals are the complete trials whose network cost no more when the same phase began, in every cost that is an
    objective: so the cheapest trials have none. It is hopeless when its best validation accuracy so far is below the
    median of those that its rivals had after as many epochs (the median stopping rule of Golovin et al., Vizier, 2017),
    if there are at least `rivals` of them and more than `warmup` epochs.

    Args:
        search: with the trials that have ended.
        phase: the last one of the job that trains.
        curve: its validation accuracy after every epoch so far.
        costs: of the network that it began with.
    """
    epochs = len(curve)
    if search.rivals is None or epochs <= search.warmup:
        return None
    dear = [name for name in search.objectives if name in COSTS and name in costs]
    theirs = [
        trial.curve[epochs - 1]
        for trial in search.trials
        if trial.state == COMPLETE
        and trial.phase == phase
        and len(trial.curve) >= epochs
        and all(trial.costs.get(name, math.inf) <= costs[name] for name in dear)
    ]
    if len(theirs) < search.rivals or max(curve) >= (median := statistics.median(theirs)):
        return None
    return (
        f"after epoch {epochs} of {phase} its validation accuracy is at best {max(curve):.4f}, and that of "
        f"{len(theirs)} trials{' that cost no more' if dear else ''} was {median:.4f} in the median"
    )


def searches_beside(folders: Iterable[Path]) -> tuple[list[Search], list[str]]:
    """The searches whose jobs lie in some folders, and a line on every file that cannot be read."""
    found, unread = [], []
    for path in sorted(path for above in {folder.parent for folder in folders} for path in above.glob("search-*.json")):
        try:
            found.append(Search.read(path))
        except OSError as error:
            unread.append(f"{path}: {error.strerror or error}")
        except ValueError as error:
            unread.append(str(error))
    return found, unread


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
