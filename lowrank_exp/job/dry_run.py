"""A dry run: the phases gone through in order without being run, for their plans and an estimate of their time.

As far as phases have finished, networks come from the store. After them shapes are exact; weights are those at hand.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.job.console import Console
from lowrank_exp.network.copying import copy_network
from lowrank_exp.phases.phase import Phase, Setting
from lowrank_exp.phases.rehearsal import Prospect
from lowrank_exp.rank import Plan
from lowrank_exp.text.estimate import Estimate
from lowrank_exp.training.probes.pace import forward_seconds

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData


class DryRun:
    """Prints plans and reachable budgets phase by phase; `estimates` has the time of each.

    Args:
        network: what the first phase gets; it is not changed.
        untrained: whether its weights are those of its constructor.
        data: set up.
        evaluation: images per forward pass when accuracy is measured after a phase.
        latency: seconds that the measurement of latency takes after a phase.
        console: where to print.
    """

    def __init__(
        self, network: nn.Module, untrained: bool, data: ImageData, evaluation: int, latency: float, console: Console
    ) -> None:
        self.network, self.untrained, self.data = copy_network(network), untrained, data
        self.evaluation, self.latency, self.console = evaluation, latency, console
        self.not_run: str | None = None  # the first phase whose weights a later one would get
        self.networks = {"initial": self.network}  # by the name of the phase that leaves it
        self.epochs: dict[str, int] = {}
        self.estimates: list[Estimate] = []

    def add_finished(self, phase: Phase, setting: Setting, plan: Plan | None, network: nn.Module, epochs: int) -> None:
        """A phase that has finished: its plan, the network that it has left, and how many epochs it has trained."""
        if plan is not None:
            self._print(setting.name, phase.show(plan, self.network.to(setting.device), setting))
        self.untrained = self.untrained and not phase.trains
        self._leave(setting.name, network, epochs)
        self.not_run = None
        self.estimates.append(Estimate(setting.name))

    def rehearse(self, phase: Phase, setting: Setting) -> None:
        """A phase that is still to be run."""
        with self._svds(setting) as setting:
            known = self.networks
            expected = replace(
                setting,
                epochs=dict(self.epochs),
                network=lambda name: copy_network(known[name]) if name in known else setting.network(name),
            )
            rehearsal = phase.rehearse(self.network.to(setting.device), expected)
        if rehearsal.prospect is not None:
            self._print(setting.name, rehearsal.prospect)
        for number, note in enumerate(rehearsal.notes):
            self.console.say(note if number else f"{setting.name}: {note}")
        self._leave(setting.name, rehearsal.network, rehearsal.epochs)
        if not rehearsal.same_weights:
            self.not_run = self.not_run or setting.name
        measured = (self._accuracy(setting.device), ("latency", self.latency))
        self.estimates.append(Estimate(setting.name, tuple(rehearsal.parts), rehearsal.unknown, measured))

    def _leave(self, name: str, network: nn.Module, epochs: int) -> None:
        self.network = self.networks[name] = network
        self.epochs[name] = epochs

    def _accuracy(self, device: str) -> tuple[str, float]:
        """What it takes to measure accuracy after a phase."""
        sizes = self.data.sizes
        loader = self.data.train_loader(self.evaluation, 0, augment=False)
        views = sizes["test"] * self.data.test_views + sizes["val"]
        seconds = views * forward_seconds(self.network, loader, device)
        return f"accuracy on {sizes['test'] + sizes['val']:,} test and validation images", seconds

    def _print(self, name: str, prospect: Prospect) -> None:
        """The plan, whether it is that of other weights than the run will have, and the budgets that can be met."""
        if prospect.plan is not None:
            self.console.plan(name, prospect.plan, prospect.remains)
            if self.not_run:
                weights = "untrained, unless the constructor loads some" if self.untrained else "those before it"
                self.console.say(
                    f"{self.not_run} has not run and weights are {weights}: ranks that depend on them will differ"
                )
        if prospect.budgets:
            self.console.reachable(name, prospect.budgets, prospect.over)

    @contextlib.contextmanager
    def _svds(self, setting: Setting) -> Iterator[Setting]:
        """The setting; SVDs of weights that will be others in the run are not kept."""
        if self.not_run is None:
            yield setting
            return
        with tempfile.TemporaryDirectory() as folder:
            yield replace(setting, svds=SVDStore(Path(folder)))
