"""`Fastest`: the smallest budget of time at which a network is still as accurate as it has to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank_exp.checks import fraction, is_number
from lowrank_exp.files.runtime_words import DENSE_MS, SMALL_MS
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import one_image
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.recalibrate import KEPT, Recalibrate
from lowrank_exp.phases.rehearsal import Rehearsal, walked
from lowrank_exp.phases.timing import clock_of
from lowrank_exp.rank import BudgetError, Plan
from lowrank_exp.rank.timed import batch_of
from lowrank_exp.runtime import installed_runtimes, runtime_named, time_interleaved
from lowrank_exp.surgery import factorize_
from lowrank_exp.training import evaluate


@dataclass(frozen=True, kw_only=True)
class Fastest(Phase):
    """Search budgets of time by bisection for the fastest network within a loss of validation accuracy, and make it.

    At every budget the ranks are chosen anew, layers are replaced by their factors, and batch norms are recalibrated
    as `recalibrate` has it. The network is then timed beside the dense one in every runtime that is installed.

    Args:
        factorize: decomposition, rank policy (without a budget of time of its own), and fit.
        recalibrate: how batch norms are.
        latency: by what times are measured: `runtime`, `threads`, `batch_size`; as `latency` of the configuration.
        accuracy_drop: of the dense network's validation accuracy, a fraction: 0.005 is half a point.
        lowest: budget that is searched, a fraction of the dense network's time.
        resolution: budgets that differ by less are not told apart.
        seconds: how long networks are timed at the end, in every runtime.

    The values of the phase: `budget` (of the plan that was taken), `budgets_tried`, `val_accuracy_dense`,
    `val_accuracy_small`, `recalibrated` (1 or 0), and by runtime `<runtime>_dense_ms` and `<runtime>_small_ms`.
    """

    factorize: Factorize
    recalibrate: Recalibrate
    latency: Mapping[str, Any] = field(default_factory=dict)
    accuracy_drop: float = 0.005
    lowest: float = 0.1
    resolution: float = 0.02
    seconds: float = 0.5

    version: ClassVar[int] = 3  # 1 told accuracies apart by themselves; 2 fitted factors without extrapolation

    def __post_init__(self) -> None:
        if not is_number(self.accuracy_drop) or not 0 <= self.accuracy_drop < 1:
            raise ValueError(
                f"target.accuracy_drop={self.accuracy_drop!r} is not a share of images from 0 to below 1: 0.005 lets "
                "validation accuracy fall by half a point"
            )
        for name in ("lowest", "resolution"):
            value = getattr(self, name)
            fraction(name, value, f"{name}={value!r} is not a fraction of the dense network's time, in (0, 1]")
        options = getattr(self.factorize.rank, "keywords", None)
        if options is None:
            raise ValueError("Fastest needs a rank policy that takes a budget of time: a partial of allocate")
        if set_by_hand := [name for name in ("latency", "latency_ms") if options.get(name) is not None]:
            raise ValueError(
                f"rank.{set_by_hand[0]}={options[set_by_hand[0]]} is a budget of time, which this method searches "
                f"itself: set rank.{set_by_hand[0]}=null, or take method=decompose for that budget"
            )

    @property
    def validates(self) -> str:
        return "budgets are searched by accuracies"

    @property
    def remedy(self) -> str:
        return "Let less accuracy go (target.accuracy_drop), or train on afterwards"

    def conditions(self) -> dict[str, Any]:
        return self.at(1.0).conditions()

    def at(self, budget: float) -> Factorize:
        """The factorization at a budget of time."""
        rank = self.factorize.rank
        # Not a partial of the partial: Hydra's has attributes of its own, and then its keywords would stay inside.
        rank = partial(rank.func, *rank.args, **{**rank.keywords, "latency": budget})
        return replace(self.factorize, rank=rank, latency=self.latency)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.at(1.0).walk_(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        search = _Search(self, network, setting)
        while search.high - search.low > self.resolution:
            search.step()
        best, values = search.best, {"budgets_tried": float(len(search.tried)), "val_accuracy_dense": search.dense}
        if best is None:
            told = [_tell_failure(search, self.accuracy_drop)]
            return Done(applied=False, values=values, warnings=told, missed=True)
        dense = copy_network(network)
        self.make_(network, best.plan, setting)
        values |= {
            "budget": best.budget,
            "val_accuracy_small": best.accuracy,
            "recalibrated": float(best.recalibrated),
            **best.plan.times,
            **self.time_everywhere(dense, network, setting),
        }
        return Done(plan=best.plan, values=values)

    def make_(self, network: nn.Module, plan: Plan, setting: Setting) -> bool:
        """Replace the layers of `network`, in place; whether its batch norms are other ones afterwards."""
        factorize_(network, plan, store=setting.svds, **self.factorize.fit_arguments(setting))
        done = self.recalibrate.run_(network, setting)
        return done.applied and bool(done.values.get(KEPT, True))

    def time_everywhere(self, dense: nn.Module, small: nn.Module, setting: Setting) -> dict[str, float]:
        """Medians in milliseconds of both networks in every runtime that is installed, measured in turn."""
        clock, times = clock_of(self.latency), {}
        batch = batch_of(one_image(dense, setting.example), clock)
        for name in dict.fromkeys([clock.runtime.name, *installed_runtimes()]):
            runtime = (
                clock.runtime if name == clock.runtime.name else runtime_named(name, threads=clock.runtime.threads)
            )
            prepared = {"dense": runtime.prepare(dense, batch), "small": runtime.prepare(small, batch)}
            timing = time_interleaved(prepared, seconds=self.seconds)
            times |= {f"{name}{DENSE_MS}": timing["dense"].median_ms, f"{name}{SMALL_MS}": timing["small"].median_ms}
        return times

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return Rehearsal(
            walked(network, setting.example, self.walk_),
            unknown="the search of the budget, and the times of layers' options",
            same_weights=False,
            notes=["budgets are searched by what networks take and lose, so the plan is not known before the run"],
        )


@dataclass(frozen=True)
class _Tried:
    """A network at a budget: its plan, its validation accuracy, and whether its batch norms were recalibrated."""

    budget: float
    plan: Plan
    accuracy: float
    recalibrated: bool


@dataclass
class _Search:
    """Bisection: the fastest budget known to be accurate enough, `high`, and one that is not, `low`."""

    phase: Fastest
    network: nn.Module
    setting: Setting
    tried: list[_Tried] = field(default_factory=list)
    best: _Tried | None = None
    high: float = 1.0

    def __post_init__(self) -> None:
        self.low, self.dense = self.phase.lowest, self.score(self.network)

    def step(self) -> None:
        """Try the budget in the middle."""
        budget = (self.low + self.high) / 2
        try:
            made = self.attempt(budget)
        except BudgetError:  # no plan is as fast
            self.low = budget
            return
        self.tried.append(made)
        if made.accuracy >= self.dense - self.phase.accuracy_drop:
            self.best, self.high = made, budget
        else:
            self.low = budget

    def attempt(self, budget: float) -> _Tried:
        """A copy of the network at a budget."""
        network = copy_network(self.network)
        plan = self.phase.at(budget).plan(network, self.setting)
        kept = self.phase.make_(network, plan, self.setting)
        return _Tried(budget, plan, self.score(network), kept)

    def score(self, network: nn.Module) -> float:
        """Validation accuracy."""
        loader = self.setting.data.val_loader(self.phase.recalibrate.batch_size)
        return evaluate(network, loader, self.setting.device).accuracy or 0.0


def _tell_failure(search: _Search, drop: float) -> str:
    if not search.tried:
        return f"no plan takes less than the dense network's time down to {search.phase.lowest} of it: nothing changed"
    nearest = max(search.tried, key=lambda one: one.accuracy)
    return (
        f"no faster network keeps validation accuracy within {drop:.2%} of {search.dense:.2%}: the best of "
        f"{len(search.tried)} has {nearest.accuracy:.2%} at {nearest.budget:.2f} of the time; nothing changed. Allow a "
        "larger target.accuracy_drop, fit to more images, or fine-tune (method.order)"
    )
