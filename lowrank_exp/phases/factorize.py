"""`Factorize`: ranks are chosen and layers replaced by their factors."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lowrank_exp.checks import WithoutEffectError, whole
from lowrank_exp.decomposition import Decompositions
from lowrank_exp.decomposition.base import WHAT, Decomposition
from lowrank_exp.decomposition.choice import Kinds
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import one_image
from lowrank_exp.network.shapes import finite
from lowrank_exp.phases.choices import tell_choices, with_unfitted
from lowrank_exp.phases.factorize_rehearsed import CountedScores, factorize_for_a_while_
from lowrank_exp.phases.looks import Looks
from lowrank_exp.phases.made_factors import noted_subnormals, with_subnormals
from lowrank_exp.phases.phase import FITTED, Done, Phase, Setting
from lowrank_exp.phases.reference_solver import with_reference
from lowrank_exp.phases.rehearsal import Parts, Prospect, Rehearsal
from lowrank_exp.phases.resolve import resolve, stages_of
from lowrank_exp.phases.timing import bounds_time, clock_of
from lowrank_exp.rank import (
    BudgetError,
    Choice,
    LayerProfile,
    Plan,
    allocate,
    needs,
    profile,
    with_accuracy,
    with_times,
)
from lowrank_exp.rank.missed import left_unspent, missed_budget, missed_by_clock, without_effect
from lowrank_exp.rank.reachable import reachable
from lowrank_exp.rank.time_budget import with_made_up_times
from lowrank_exp.rank.timed import batch_of
from lowrank_exp.rank.times.verify import explain_steps, plan_by_clock
from lowrank_exp.reconstruct import ChainStore, check_options
from lowrank_exp.reconstruct.available import acts_on_responses
from lowrank_exp.surgery import factorize_, replay_to_plan_
from lowrank_exp.text.estimate import in_words
from lowrank_exp.training import FirstImages
from lowrank_exp.training.probes.pace import forward_seconds

IN_SEQUENCE = 4  # forward passes that an asymmetric fit is worth: before and after factors, in both networks
SETTINGS = ("ranks", "rules", "fixed", "multiple", "over")  # of `allocate`, which decide what can be reached


@dataclass(frozen=True, kw_only=True)
class Factorize(Phase):
    """Choose ranks and replace layers by their factors.

    Args:
        decomposition: `conv` and `linear`, as `lowrank_exp.profile` takes them.
        rank: called with the profiles, gives the plan: `lowrank_exp.allocate` with its policy and budget. Its option
            `resolve` is for the phase: with errors of responses and an asymmetric fit, the rest of the budget is
            allotted again by the errors as they are after every stage of layers with outputs of one size (True), or
            after so many layers (an int).
        measure: for policies that look at data: `quality` (accuracy or loss), `images` for validation drawn by `seed`,
            `samples` of ranks per layer and what the `others` are (`with_accuracy`), `gradients`: training images for
            the sensitivity and for response errors, and `batch_size`. Where a knapsack of errors has several
            decompositions to choose from, the errors that they reach are measured, which takes no images.
        latency: by what times are measured, if `rank` has a budget of time: `runtime`, `threads`, `batch_size`; as
            `latency` of the configuration.
        reconstruct: a fit to training images: `fit` (whitened, response, relu; null: to the weights alone), `images`,
            `batch_size`, and the fit's own options.
    """

    decomposition: Mapping[str, Any]
    rank: Callable[..., Plan]
    measure: Mapping[str, Any] = field(default_factory=dict)
    reconstruct: Mapping[str, Any] = field(default_factory=lambda: {"fit": None})
    latency: Mapping[str, Any] = field(default_factory=dict)
    resolve: bool | int = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._take_resolve()
        if "errors" in self.needs:
            object.__setattr__(self, "version", 2)  # 1 compared estimates, which favour decompositions by SVD
        if "responses" in self.needs:
            object.__setattr__(self, "version", 2)  # 1 looked at 64 places of every image
        options = dict(self.reconstruct)
        if (fit := options.pop("fit", None)) is None:
            return
        if fit == "whitened" and not all(map(acts_on_responses, self._kinds)):
            object.__setattr__(self, "version", self.version + 2)  # 1 and 2 fitted factors without extrapolation
        for name in ("images", "batch_size"):
            value = options.pop(name, None)
            whole(name, value, message=f"reconstruct.{name} must be a whole number of at least 1, got {value!r}")
        check_options(fit, **options)

    def _take_resolve(self) -> None:
        """`rank` without the option that is for this phase."""
        options = dict(getattr(self.rank, "keywords", {}))
        if "resolve" not in options:
            return
        every = options.pop("resolve")
        if not isinstance(every, bool):
            whole("rank.resolve", every, message=f"rank.resolve={every!r} is not true, false, or a number of layers")
        object.__setattr__(self, "rank", partial(self.rank.func, *self.rank.args, **options))
        object.__setattr__(self, "resolve", every)
        if every and ("responses" not in self.needs or not self.reconstruct.get("asymmetric")):
            raise ValueError(
                f"rank.resolve={str(every).lower()} chooses ranks again by errors of responses while layers are fitted "
                "in sequence: set rank.metric=response and reconstruct=whitened_asymmetric, or rank.resolve=false"
            )
        if every and bounds_time(self.rank):
            raise ValueError("rank.resolve takes no budget of time: set rank.latency=null, or rank.resolve=false")

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        if self.resolve and getattr(self.rank, "keywords", {}).get("shuffle") is not None:
            raise WithoutEffectError("ranks that are chosen again on the way are not shuffled: set rank.resolve=false")
        layers = profile(network, example, Decompositions.of(self.decomposition))
        plan = self.stand_in(layers, lambda ranks: 1.0)
        with finite(network):
            replay_to_plan_(network, plan, self.reconstruct.get("fit"), self._otherwise)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        plan = self.plan(network, setting)
        done = with_unfitted(report_plan(plan, self.rank, network), plan, network, self.reconstruct.get("fit"))
        with noted_subnormals() as noted:
            factorize_(network, plan, store=setting.svds, **self.fit_arguments(setting))
        return with_subnormals(done, noted)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        seconds = stopwatch()
        with warnings.catch_warnings():  # said once, by the walk
            warnings.simplefilter("ignore")
            layers = self.profiles(network, setting)
            scores = CountedScores(layers)
            plan = with_reference(self.rank(layers), network) if self.foreseen else self.stand_in(layers, scores)
        parts = [("profiles and plan", seconds())]
        prospect, notes = self._make_prospect(plan if self.foreseen else None, layers), []
        if self.needs:
            looks = self._looks.estimate(network, setting, len(scores.asked))
            why = "looks at data" if self.needs - {"errors"} else "compares errors that are measured first"
            takes = ". It takes" if looks else ""
            notes = [f"{plan.policy} {why}, so its plan is not known before the run{takes}"]
            notes += [f"      {what}: {in_words(seconds)}" for what, seconds in looks]
            parts += looks
        if bounds_time(self.rank):
            notes.append("times of the layers' options are measured by the run, so the plan is not known before it")
        network, factors, exact, unknown = self._estimate_factors(network, plan, setting)
        also = ["the errors that ranks reach"] * bool(self.needs & {"errors", "responses"})
        also += ["the times that they take"] * bounds_time(self.rank)
        unknown, same = " and ".join([*([unknown] if unknown else []), *also]), exact and self.foreseen
        return Rehearsal(network, [*parts, *factors], unknown, same, prospect=prospect, notes=notes)

    def show(self, plan: Plan, network: nn.Module, setting: Setting) -> Prospect:
        return self._make_prospect(plan, self.profiles(network, setting))

    def _make_prospect(self, plan: Plan | None, layers: Mapping[str, LayerProfile]) -> Prospect:
        """The plan, where it is known, and the budgets that can be met."""
        remains, budgets, settings = {}, {}, {}
        if plan is not None:
            # What time there is outside layers stands in plans alone: profiles without times do not have it.
            convs = {n: layer for n, layer in plan.layers.items() if n in layers and layers[n].kind == "conv"}
            remains = {"all layers": plan} | ({"convolutions": Plan(convs)} if plan.over == "conv" else {})
        if getattr(self.rank, "func", None) is allocate:
            settings = {name: value for name, value in self.rank.keywords.items() if name in SETTINGS}
            budgets = reachable(layers, **settings)
        return Prospect(plan, remains, budgets, settings.get("over", "all"))

    def _estimate_factors(self, network: nn.Module, plan: Plan, setting: Setting) -> tuple[nn.Module, Parts, bool, str]:
        """A copy with the layers replaced, what that takes, whether its weights are the run's, what is not known."""
        network, layers = copy_network(network), sum(layer.rank is not None for layer in plan.layers.values())
        if (fit := self.reconstruct.get("fit")) is None:
            seconds, exact = factorize_for_a_while_(network, plan, setting.svds)
            return network, [(f"factors of {layers} layers", seconds)], exact, ""
        images = min(self.reconstruct["images"], setting.data.sizes["train"])
        loader = setting.data.train_loader(self.reconstruct["batch_size"], 0, augment=False)
        passes = IN_SEQUENCE if self.reconstruct.get("asymmetric") else 1
        seconds = passes * images * forward_seconds(network, loader, setting.device)
        with finite(network):
            replay_to_plan_(network, plan, fit, self._otherwise)
        return network, [(f"passes over {images:,} training images", seconds)], False, f"the fit {fit} itself"

    @property
    def _otherwise(self) -> str:
        return self.reconstruct.get("otherwise", "refuse")

    def stand_in(self, layers: Mapping[str, LayerProfile], score: Callable[..., float]) -> Plan:
        """A plan with made-up sensitivities and the given `score`, of which no more than the shapes is to be believed.

        The score is asked for as many rank sets as that of the data would be.
        """
        if "accuracy" in self.needs:
            layers = with_accuracy(layers, score, **self._sampling)
        if self.needs & {"sensitivity", "responses"}:
            layers = {name: _make_up(layer) for name, layer in layers.items()}
        try:
            return self._plan_untimed(layers, score) if bounds_time(self.rank) else self._planned(layers, score)
        except BudgetError as error:
            # The ladders of Tucker-2 and the tensor train follow the spectra, which are not known yet.
            if not error.between or not any(layer.offer.ladder_follows_weights for layer in layers.values()):
                raise
            return _plan_lowest(layers)

    def _plan_untimed(self, layers: Mapping[str, LayerProfile], score: Callable[..., float]) -> Plan:
        """A plan with times that are made up: only the run can tell whether a budget of time can be reached."""
        options = self.rank.keywords
        try:
            return self._planned(with_made_up_times(layers, options.get("latency_ms")), score)
        except BudgetError:
            if all(options.get(what) is None for what in WHAT):
                return _plan_lowest(layers)
            return self._planned(layers, score, latency=None, latency_ms=None)  # the others must be reachable

    def profiles(self, network: nn.Module, setting: Setting) -> dict[str, LayerProfile]:
        """What the layers of this network would cost and keep."""
        return profile(network, setting.example, Decompositions.of(self.decomposition), store=setting.svds)

    def plan(self, network: nn.Module, setting: Setting) -> Plan:
        """The ranks that the policy chooses for this network."""
        layers = self.profiles(network, setting)
        clock = None
        if bounds_time(self.rank):
            clock = clock_of(self.latency, times=setting.times, progress=setting.progress)
            layers = with_times(layers, network, setting.example, clock)
        layers = self._looks.complete(layers, network, setting)
        with contextlib.ExitStack() as stack:
            score = None
            if self._looks.scores:
                score = stack.enter_context(self._looks.score(network, layers, setting))
            if "accuracy" in self.needs:
                layers = with_accuracy(layers, score, **self._sampling)
            with warnings.catch_warnings():  # said once, by the walk
                warnings.simplefilter("ignore")
                if clock is None:
                    plan = self._planned(layers, score)
                    plan = self._resolved(plan, layers, network, setting, score) if self.resolve else plan
                    return with_reference(plan, network)
                batch = batch_of(one_image(network, setting.example), clock)
                plan = plan_by_clock(layers, lambda some: self._planned(some, score), network, batch, clock)
                return with_reference(explain_steps(plan, layers, batch, clock), network)

    def _resolved(
        self,
        plan: Plan,
        layers: Mapping[str, LayerProfile],
        network: nn.Module,
        setting: Setting,
        score: Callable[..., float] | None,
    ) -> Plan:
        """The plan with later stages chosen by the errors behind the factors of the earlier ones."""

        def compress(taken: Plan) -> nn.Module:
            return factorize_(copy_network(network), taken, store=setting.svds, **self.fit_arguments(setting))

        def measure(rest: Mapping[str, LayerProfile], small: nn.Module) -> Mapping[str, LayerProfile]:
            return self._looks.with_errors(rest, small, setting)

        def choose(profiles: Mapping[str, LayerProfile], taken: Mapping[str, Choice | None]) -> Plan:
            return self._planned(profiles, score, fixed={**(self.rank.keywords.get("fixed") or {}), **taken})

        stages = stages_of(layers, self.resolve)
        return resolve(plan, layers, stages, compress, measure, choose)

    def _planned(self, layers: Mapping[str, LayerProfile], score: Callable[..., float] | None, **instead: Any) -> Plan:
        return self.rank(layers, **({"score": score} if "score" in self.needs else {}), **instead)

    def conditions(self) -> dict[str, Any]:
        return clock_of(self.latency).conditions if bounds_time(self.rank) else {}

    @property
    def foreseen(self) -> bool:
        """Whether its plan follows from the weights alone."""
        return not self.needs and not bounds_time(self.rank)

    @property
    def told(self) -> str:
        return tell_choices(getattr(self.rank, "keywords", {}), self.reconstruct)

    @property
    def remedy(self) -> str:
        return "Keep more (a larger budget or larger ranks), or train on afterwards"

    @property
    def validates(self) -> str:
        return "this rank policy measures accuracies" if self._looks.scores else ""

    @property
    def needs(self) -> frozenset[str]:
        """What the policy looks at beside the weights."""
        options = getattr(self.rank, "keywords", {})
        found = needs(options["policy"], options) if "policy" in options else frozenset()
        return found if self._several else found - {"errors"}

    @property
    def _looks(self) -> Looks:
        return Looks(self.needs, self.measure, self.reconstruct.get("fit"))

    @property
    def _several(self) -> bool:
        """Whether a layer may have a choice of decompositions, whose errors compare only as they are reached."""
        return any(len(some) > 1 for some in self._choices)

    @property
    def _kinds(self) -> list[Decomposition]:
        """The decompositions that a layer may get."""
        return [one for some in self._choices for one in some]

    @property
    def _choices(self) -> list[Kinds]:
        """The decompositions that one layer chooses from, of every sort of layer and every exception."""
        kinds = Decompositions.of(self.decomposition)
        return [kinds.conv, kinds.linear, *kinds.layers.values()]

    @property
    def _sampling(self) -> dict[str, Any]:
        return {name: self.measure[name] for name in ("samples", "others")}

    def fit_arguments(self, setting: Setting) -> dict[str, Any]:
        """What `factorize_` takes beside the plan: nothing where the fit is to the weights."""
        options = dict(self.reconstruct)
        if (fit := options.pop("fit", None)) is None:
            return {}
        images = min(options.pop("images"), setting.data.sizes["train"])
        if fit == "relu":
            options["images"] = images
        loader = setting.data.train_loader(options.pop("batch_size"), setting.seed, augment=False)
        kept = ChainStore(setting.folder / FITTED)
        return {
            "reconstruct": fit,
            "batches": FirstImages(loader, images),
            "seed": setting.seed,
            "kept": kept,
            **options,
        }


def report_plan(plan: Plan, rank: Callable[..., Plan], network: nn.Module) -> Done:
    """What is to be said of a plan that is carried out: a budget missed, or nothing changed. See `rank.missed`."""
    missed = missed_budget(plan, rank, network)
    said = [*([missed] if missed else []), *left_unspent(plan, rank, network), *missed_by_clock(plan, rank)]
    return Done(plan=plan, values=plan.times, warnings=[*said, *without_effect(plan)], missed=bool(missed))


def _plan_lowest(layers: Mapping[str, LayerProfile]) -> Plan:
    """Every layer at its lowest rank by its first decomposition."""
    return allocate(
        layers,
        "fixed",
        ranks={n: Choice(layer.alternatives[0], layer.ranks[0]) for n, layer in layers.items() if layer.rungs},
    )


def _make_up(layer: LayerProfile) -> LayerProfile:
    """A profile with sensitivities and response errors that nobody has measured, for the walk."""
    lost = [(one, 1.0 - one.energy) for one in layer.offers]
    return replace(layer, offers=tuple(replace(one, sensitivity=loss, responses=loss) for one, loss in lost))
