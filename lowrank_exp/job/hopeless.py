"""A job that a search has chosen, and that the search's pruner ends early when it is hopeless."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from lowrank_exp.files.results import PhaseResult
from lowrank_exp.files.searches import Search, costs_of, hopeless
from lowrank_exp.job.parts import Step


class Pruned(Exception):  # noqa: N818 (not an error)
    """The job is hopeless among those of its search, as the message says."""


class Watch:
    """Looks at the epochs of the last phase that trains: until then networks of equal cost need not end so."""

    def __init__(self, search: Search | None, phase: str | None) -> None:
        """`search`: None where none has chosen the job; `phase`: None where nothing is trained."""
        self.search, self.phase = search, phase
        self.now: str | None = None
        self.curve: list[float] = []
        self.costs: dict[str, float] = {}

    @classmethod
    def of_job(cls, cfg: DictConfig, steps: Sequence[Step]) -> "Watch":
        """The watch over a job. Raises ValueError, naming the file, where that of the search cannot be read."""
        file = (cfg.get("sweeper") or {}).get("file")
        trained = [step.name for step in steps if step.phase.trains]
        return cls(None if file is None else Search.read(Path(file)), trained[-1] if trained else None)

    def begin(self, phase: str, before: Sequence[PhaseResult]) -> None:
        """A phase begins, with the network that the phases before it have left."""
        self.now, self.curve, self.costs = phase, [], costs_of(before)

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """An epoch of the phase has ended. Raises Pruned where the job is hopeless."""
        accuracy = metrics.get("val_accuracy")
        if self.search is None or self.now != self.phase or accuracy is None:
            return
        self.curve.append(accuracy)
        if (why := hopeless(self.search, self.now, self.curve, self.costs)) is not None:
            raise Pruned(why)
