"""A dry run: the phases gone through in order without being run, for their plans and an estimate of their time.

As far as phases have finished, networks come from the store. After them shapes are exact; weights are those at hand.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_exp.data import ImageData
from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.job.console import Console
from lowrank_exp.job.outcomes import stopwatch
from lowrank_exp.network.copying import copied
from lowrank_exp.network.shapes import copy_that_runs, finite
from lowrank_exp.phases.estimate import Estimate, in_words
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.phases.phase import Phase, Setting
from lowrank_exp.phases.prune import Prune
from lowrank_exp.phases.small import Evaluate, Recalibrate, Recompose
from lowrank_exp.phases.svd import ToSVD, Truncate
from lowrank_exp.phases.train import Train
from lowrank_exp.rank import Choice, LayerProfile, Plan, allocate
from lowrank_exp.rank.reachable import reachable
from lowrank_exp.surgery import edits_of, factorize_, replay_, replay_to_plan_
from lowrank_exp.training.checkpoint import FIT
from lowrank_exp.training.probes.pace import SECONDS, fit_seconds, forward_seconds

GRADIENT = 3  # forward passes that one with gradients is worth
SETTINGS = ("ranks", "rules", "fixed", "multiple", "over")  # of `allocate`, which decide what can be reached

Parts = list[tuple[str, float]]


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
        self.network, self.untrained, self.data = network, untrained, data
        self.evaluation, self.latency, self.console = evaluation, latency, console
        self.not_run: str | None = None  # the first phase whose weights a later one would get
        self.estimates: list[Estimate] = []

    def finished(self, phase: Phase, setting: Setting, plan: Plan | None, network: nn.Module) -> None:
        """A phase whose plan and network are at hand."""
        if isinstance(phase, Factorize) and plan is not None:
            self._show(phase, phase.profiles(self.network.to(setting.device), setting), plan, setting)
        self.network, self.not_run = network, None
        self.untrained = self.untrained and not phase.trains
        self.estimates.append(Estimate(setting.name))

    def phase(self, phase: Phase, setting: Setting) -> None:
        """A phase that is still to be run."""
        self.network = copied(self.network).to(setting.device)
        unknown = ""
        match phase:
            case Train():
                parts = self._train(phase, setting)
            case Prune():
                parts = self._train(phase.train, setting)
                self._walk(phase, setting)
            case Factorize():
                parts = self._factorize(phase, setting)
                unknown = f"the fit {fit} itself" if (fit := phase.reconstruct.get("fit")) else ""
            case Recalibrate():
                parts = self._recalibrate(phase, setting)
            case Recompose() | Evaluate() | ToSVD() | Truncate():
                parts = self._run(phase, setting)
            case _:
                parts, unknown = [], f"{type(phase).__name__} itself"
                self.not_run = self.not_run or setting.name
                self._walk(phase, setting)
        images = self.data.sizes["test"] + self.data.sizes["val"]
        views = self.data.sizes["test"] * self.data.test_views + self.data.sizes["val"]
        seconds = views * self._forward(self.evaluation, setting)
        parts.append((f"accuracy on {images:,} test and validation images", seconds))
        parts.append(("latency", self.latency))
        self.estimates.append(Estimate(setting.name, tuple(parts), unknown))

    # -- the phases -------------------------------------------------------------------------------------------------

    def _train(self, phase: Train, setting: Setting) -> Parts:
        loader = self.data.train_loader(phase.batch_size, setting.seed, phase.augment)
        epochs = phase.epochs - _epochs_done(setting.folder / "last.ckpt")
        seconds = fit_seconds(
            self.network,
            loader,
            self.data.val_loader(phase.batch_size) if self.data.sizes["val"] else None,
            epochs=epochs,
            optimizer=phase.optimizer,
            seed=setting.seed,
            device=setting.device,
            label_smoothing=phase.label_smoothing,
            precision=phase.precision,
            accumulate=phase.accumulate,
            channels_last=phase.channels_last,
            regularizer=phase.regularizer,
            exempt=phase.exempt,
            stochastic_depth=phase.stochastic_depth,
            quant_noise=phase.quant_noise,
        )
        if phase.epochs:
            self.not_run = self.not_run or setting.name
        left = f"{epochs} of {phase.epochs} epochs" if epochs < phase.epochs else f"{epochs} epochs"
        steps = -(-len(loader) // phase.accumulate)
        otherwise = (("not compiled", phase.compile), ("on one device", phase.devices > 1))
        measured = [said for said, differs in otherwise if differs]
        return [(", ".join([f"{left}, {steps:,} steps each", *measured]), seconds)]

    def _walk(self, phase: Phase, setting: Setting) -> None:
        """The shapes that the phase will leave, as nearly as can be told."""
        shapes, example, _ = copy_that_runs(self.network, [setting.example])
        phase.walk_(shapes, example)
        with finite(self.network):
            replay_(self.network, edits_of(shapes)[len(edits_of(self.network)) :])

    def _run(self, phase: Phase, setting: Setting) -> Parts:
        """A phase that is short enough to be run."""
        with self._svds(setting) as setting:
            seconds = stopwatch()
            done = phase.run_(self.network, setting)
            seconds = seconds()
        if done.plan is not None:
            self._say_plan(done.plan, {"all layers": done.plan}, setting)
        what = {Recompose: "weights multiplied out", ToSVD: "SVDs", Truncate: "SVDs"}
        return [(what.get(type(phase), ""), seconds)]

    def _factorize(self, phase: Factorize, setting: Setting) -> Parts:
        with self._svds(setting) as setting, warnings.catch_warnings():  # said once, by the walk
            warnings.simplefilter("ignore")
            seconds = stopwatch()
            layers = phase.profiles(self.network, setting)
            scored = _Scored(layers)
            plan = phase.stand_in(layers, scored) if phase.needs else phase.rank(layers)
            parts = [("profiles and plan", seconds())]
            self._show(phase, layers, None if phase.needs else plan, setting)
            if phase.needs:
                parts += self._data(phase, setting, plan.policy, len(scored.asked))
            return parts + self._factors(phase, setting, plan)

    def _data(self, phase: Factorize, setting: Setting, policy: str, scores: int) -> Parts:
        """What the policy looks at, said and estimated."""
        forward, parts = self._forward(phase.measure["batch_size"], setting), []
        if "sensitivity" in phase.needs:
            images = min(phase.measure["gradients"], self.data.sizes["train"])
            parts.append((f"gradients of {images:,} training images", GRADIENT * images * forward))
        if phase.needs & {"accuracy", "score"}:
            images = phase.scored_images(self.data)
            parts.append((f"{scores:,} rank sets scored on {images:,} validation images", scores * images * forward))
        self.console.say(f"{setting.name}: {policy} looks at data, so its plan is not known before the run. It takes")
        for what, seconds in parts:
            self.console.say(f"      {what}: {in_words(seconds)}")
        self.not_run = self.not_run or setting.name
        return parts

    def _factors(self, phase: Factorize, setting: Setting, plan: Plan) -> Parts:
        """The layers replaced, and how long their factors take."""
        planned = {name: layer for name, layer in plan.layers.items() if layer.rank is not None}
        if fit := phase.reconstruct.get("fit"):
            images = min(phase.reconstruct["images"], self.data.sizes["train"])
            passes = 2 * len(planned) if phase.reconstruct.get("asymmetric") else 1
            seconds = passes * images * self._forward(phase.reconstruct["batch_size"], setting)
            with finite(self.network):
                replay_to_plan_(self.network, plan, fit, phase.reconstruct.get("asymmetric", False))
            self.not_run = self.not_run or setting.name
            return [(f"passes over {images:,} training images", seconds)]

        work = {name: layer.weights_before * _highest(layer.rank) for name, layer in planned.items()}
        done, seconds = 0, stopwatch()
        rest = sorted(work, key=work.__getitem__)
        while rest and seconds() < SECONDS:
            name = rest.pop(0)
            factorize_(self.network, replace(plan, layers={name: plan.layers[name]}), store=setting.svds)
            done += work[name]
        seconds = seconds()
        if rest:
            with finite(self.network):
                replay_to_plan_(self.network, Plan({name: plan.layers[name] for name in rest}))
            self.not_run = self.not_run or setting.name
        return [(f"factors of {len(planned)} layers", seconds * sum(work.values()) / done if done else 0.0)]

    def _recalibrate(self, phase: Recalibrate, setting: Setting) -> Parts:
        if not any(isinstance(one, _BatchNorm) and one.running_mean is not None for one in self.network.modules()):
            return []
        images = min(phase.max_images, self.data.sizes["train"])
        return [(f"statistics of {images:,} images", images * self._forward(phase.batch_size, setting))]

    # -- what they share --------------------------------------------------------------------------------------------

    def _show(self, phase: Factorize, layers: Mapping[str, LayerProfile], plan: Plan | None, setting: Setting) -> None:
        """The plan, where there is one, and the budgets that can be reached."""
        if plan is not None:
            convs = {name: one for name, one in plan.layers.items() if layers[name].kind == "conv"}
            remains = {"all layers": plan} | ({"convolutions": Plan(convs)} if plan.over == "conv" else {})
            self._say_plan(plan, remains, setting)
        if getattr(phase.rank, "func", None) is allocate:
            given = {name: value for name, value in phase.rank.keywords.items() if name in SETTINGS}
            self.console.reachable(setting.name, reachable(layers, **given), given.get("over", "all"))

    def _say_plan(self, plan: Plan, remains: Mapping[str, Plan], setting: Setting) -> None:
        """The plan, and whether it is that of other weights than the run will have."""
        self.console.plan(setting.name, plan, remains)
        if self.not_run:
            weights = "untrained, unless the constructor loads some" if self.untrained else "those before it"
            self.console.say(
                f"{self.not_run} has not run and weights are {weights}: ranks that depend on them will differ"
            )

    def _forward(self, batch_size: int, setting: Setting) -> float:
        """Seconds per image of the network as it is now."""
        return forward_seconds(self.network, self.data.train_loader(batch_size, 0, augment=False), setting.device)

    @contextlib.contextmanager
    def _svds(self, setting: Setting) -> Iterator[Setting]:
        """The setting; SVDs of weights that will be others in the run are not kept."""
        if self.not_run is None:
            yield setting
            return
        with tempfile.TemporaryDirectory() as folder:
            yield replace(setting, svds=SVDStore(Path(folder)))


class _Scored:
    """Stands in for a score: every rank set gets 1, and different ones are counted."""

    def __init__(self, layers: Mapping[str, LayerProfile]) -> None:
        self.layers = layers
        self.asked: set[frozenset] = set()

    def __call__(self, ranks: Mapping[str, Rank | Choice | None]) -> float:
        choices = {
            name: rank if isinstance(rank, Choice) else Choice(self.layers[name], rank)
            for name, rank in ranks.items()
            if rank is not None
        }
        self.asked.add(frozenset((name, one.profile.decomposition, one.rank) for name, one in choices.items()))
        return 1.0


def _highest(rank: Any) -> int:
    return max(rank) if isinstance(rank, tuple) else rank


def _epochs_done(checkpoint: Path) -> int:
    """Finished epochs of a training that was interrupted."""
    if not checkpoint.is_file():
        return 0
    return len(torch.load(checkpoint, map_location="cpu", weights_only=True)[FIT]["history"])
