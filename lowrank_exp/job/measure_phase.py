"""The figures of the network that a phase has left, measured on what its file gives."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lowrank_exp.artifact import index_bytes
from lowrank_exp.job.outcomes import CONFUSION, NETWORK, Outcome, OutcomeStore
from lowrank_exp.job.parts import Parts, Step
from lowrank_exp.job.scores import score
from lowrank_exp.job.timer import Timer
from lowrank_exp.network.subnormals import slowed_down
from lowrank_exp.phases.collapse import ruined
from lowrank_exp.phases.phase import Done
from lowrank_exp.runtime.measurement import measure

Accuracies = Mapping[str, tuple[float | None, float | None]]


class PhaseMeter:
    """Measures what phases have left, under the conditions of one job.

    Args:
        cfg: of the job.
        parts: its data and networks.
        store: where the networks lie.
        timer: of their latencies.
        device: where to measure.
        conditions: of this process, which go to the outcomes.
    """

    def __init__(
        self,
        cfg: DictConfig,
        parts: Parts,
        store: OutcomeStore,
        timer: Timer,
        device: str,
        conditions: dict[str, Any],
    ) -> None:
        self.cfg, self.parts, self.store, self.timer = cfg, parts, store, timer
        self.device, self.conditions = device, conditions

    def measure(
        self, step: Step, folder: Path, done: Done, seconds: float, accuracies: Accuracies, epochs: Mapping[str, int]
    ) -> Outcome:
        """The figures of the network that lies in the phase's file.

        Args:
            step: the phase.
            folder: of its files, where the confusion counts go, too.
            done: what it did.
            seconds: that it took.
            accuracies: after the phases before it, on test and on validation images.
            epochs: that these have trained.
        """
        path, data = folder / NETWORK, self.parts.data
        network = self.parts.load_network(path).to(self.device)
        batch_size = self.cfg.evaluation.batch_size
        scored = score(network, data, batch_size, self.device, folder / CONFUSION)
        warnings = [*done.warnings, *scored.warnings]
        learnt = self.cfg.model.get("weights") is not None or any(epochs.values()) or bool(done.history)
        if done.applied:
            warnings += ruined(scored.images, accuracies, learnt, step.phase.remedy)
        if self.cfg.latency.seconds:
            warnings += slowed_down(network)
        cost = measure(network, self.parts.example, seconds=0)
        return Outcome(
            name=step.name,
            key=step.key,
            applied=done.applied,
            scores=scored.scores,
            macs=cost.macs,
            weights=cost.weights,
            parameters=cost.parameters,
            bytes=path.stat().st_size,
            **self.timer.time(network, self.parts.example),
            latency_at=self.timer.conditions(),
            seconds=seconds,
            history=done.history,
            values=done.values | index_bytes(network, path),
            warnings=warnings,
            missed=done.missed,
            conditions=self.conditions,
        )

    def renew_latency(self, outcome: Outcome) -> Outcome:
        """A stored outcome; its latency measured again where it was taken under other conditions."""
        here = self.timer.conditions()
        if outcome.latency_at == here and bool(outcome.latency) == bool(self.timer.seconds):
            return outcome
        network = self.parts.load_network(self.store.network(outcome.name, outcome.key)).to(self.device)
        timed = self.timer.time(network, self.parts.example)
        return Outcome(**(asdict(outcome) | timed | {"latency_at": here}))
