"""What a method is made of. Each phase is short: it calls the rooms below."""

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lowrank_exp.collapse import outweighed
from lowrank_exp.data import ImageData
from lowrank_exp.decomposition import Decompositions
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.environment import tensors_digest
from lowrank_exp.rank import (
    BudgetError,
    LayerProfile,
    Plan,
    allocate,
    needs,
    profile,
    with_accuracy,
    with_sensitivity,
)
from lowrank_exp.rank.missed import missed_budget, without_effect
from lowrank_exp.reconstruct import check_options
from lowrank_exp.regularizers import Regularizer
from lowrank_exp.results import digest
from lowrank_exp.shapes import finite
from lowrank_exp.surgery import factorize_, recompose_, replay_to_plan_
from lowrank_exp.training import (
    Distillation,
    FirstImages,
    NetworkScore,
    Pruning,
    QuantNoise,
    StochasticDepth,
    check_computing,
    check_devices,
    check_pruning,
    fit_,
    recalibrate_,
    trained,
)
from lowrank_exp.training.until import Until


@dataclass(frozen=True)
class Setting:
    """What a phase may use: the data, its own seed, where it runs, and folders for what it must not lose.

    `folder` is the phase's own; `scores` is for scores of rank sets, which phases of other runs may look up; `epochs`
    has how many epochs the phases before it have trained, by name; `folders` their folders; `network` gives the one
    that an earlier phase has left, or `initial`, what the first phase got; `example` is an image, `(1, C, H, W)`, that
    networks take: of zeros, or the first training image where they do not take zeros.
    """

    name: str
    data: ImageData
    seed: int
    device: str
    progress: bool
    folder: Path
    scores: Path
    svds: SVDStore
    on_epoch: Callable[[Mapping[str, float]], None]
    epochs: Mapping[str, int] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    network: Callable[[str], nn.Module] | None = None
    example: Tensor | None = None


@dataclass(frozen=True)
class Done:
    """What a phase did: its curve, the plan it carried out, and whether there was anything for it to do.

    `values`: figures that only this phase has, by name (letters, digits, underscores); they stand with it in
    `result.json`. `warnings`: what a reader of its figures must know, a sentence each; `missed`: its target was not
    met, which a warning tells in numbers.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    plan: Plan | None = None
    applied: bool = True
    values: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missed: bool = False


class Phase(ABC):
    """One step of a method. `version` is raised by hand whenever the same configuration gives other numbers."""

    version: ClassVar[int] = 1
    trains: ClassVar[bool] = False  # the weights, by images and labels

    @property
    def looks_back(self) -> list[str]:
        """Earlier phases whose networks it uses, beside the one that it gets."""
        return []

    @property
    def validates(self) -> str:
        """What it measures on validation images, as the beginning of a sentence; empty: nothing."""
        return ""

    @property
    def remedy(self) -> str:
        """What to try where the network is no better than chance after it, a sentence; empty: nothing."""
        return ""

    @abstractmethod
    def walk_(self, network: nn.Module, example: Tensor) -> None:
        """Do to a network on the meta device what `run_` will do to its shapes; raise ValueError for a mistake."""

    def check_steps(self, network: nn.Module, example: Tensor, images: int) -> None:
        """Raise ValueError if so many training images give too few steps for what `run_` is to do; change nothing.

        Called before `walk_`, with the same network on the meta device.
        """
        return

    @abstractmethod
    def run_(self, network: nn.Module, setting: Setting) -> Done:
        """Change `network` in place."""


@dataclass(frozen=True, kw_only=True)
class Train(Phase):
    """Train all weights: the dense network, or fine-tuning of a small one.

    Args:
        epochs: passes over the training images; 0 trains nothing.
        batch_size: images per step.
        optimizer: called with the parameters.
        schedule: from progress in [0, 1) to a factor on the learning rate; None keeps it constant.
        augment: whether the data's augmentation is on.
        label_smoothing: in [0, 1).
        precision, accumulate, compile, channels_last, devices: how it is computed, see `fit_`. Memory format and
            compilation change the last bits of the numbers; so do devices and accumulation, and the statistics of
            batch norm; bf16 changes them from the third digit.
        regularizer: penalties, see `lowrank_exp.regularizers`; None: the loss alone.
        exempt: what weight decay spares: `s`, `U`, `V`, `factors`, `norm`, `bias`, and names of parameters.
        until: ends the training early, see `fit_`; given by other phases that train.
        stochastic_depth: residual blocks are skipped at random: a `lowrank_exp.training.StochasticDepth` or a mapping
            of its options; None: never.
        quant_noise: weights are quantized at random: a `lowrank_exp.training.QuantNoise` or a mapping of its options;
            None: never.
        pruning: filters go while it trains, see `fit_`; given by other phases that train.
        distill: a `lowrank_exp.training.Distillation` or a mapping of its options, its teacher the name of an earlier
            phase; None: the labels alone.
        snapshots: when weights are kept for `Rewind`: fractions of the epochs, in [0, 1], rounded down to whole ones.
    """

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True

    epochs: int
    batch_size: int
    optimizer: Callable[[Iterable[Parameter]], Optimizer]
    schedule: Callable[[float], float] | None = None
    augment: bool = True
    label_smoothing: float = 0.0
    precision: str = "fp32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool | str = "auto"
    devices: int = 1
    regularizer: Regularizer | None = None
    exempt: Sequence[str] = ()
    until: Until | None = None
    stochastic_depth: StochasticDepth | Mapping[str, Any] | None = None
    quant_noise: QuantNoise | Mapping[str, Any] | None = None
    pruning: Pruning | None = None
    distill: Distillation | Mapping[str, Any] | None = None
    snapshots: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing!r}")
        depth = StochasticDepth.of(self.stochastic_depth)
        check_computing(self.precision, self.accumulate, self.compile, self.channels_last, depth)
        QuantNoise.of(self.quant_noise)
        check_devices(self.devices, Distillation.of(self.distill), self.snapshots)
        if bad := [at for at in self.snapshots if isinstance(at, bool) or not 0 <= at <= 1]:
            raise ValueError(f"snapshots must be fractions of the epochs, in [0, 1], got {bad[0]!r}")
        if self.pruning is not None:
            removes = self.pruning.schedule.removes
            check_pruning(self.compile, self.devices, self.quant_noise, depth if removes else None)

    @property
    def looks_back(self) -> list[str]:
        distill = Distillation.of(self.distill)
        return [] if distill is None else [distill.teacher]

    @property
    def remedy(self) -> str:
        terms = [] if self.regularizer is None else list(self.regularizer.terms)
        weights = f"the weights of its penalties ({', '.join(terms)}), or " if terms else ""
        return (
            f"Lower {weights}the learning rate of this training; where its loss has hardly fallen, raise the learning "
            "rate or train for longer"
        )

    def epochs_at(self, fraction: float) -> int:
        """Whole epochs that are a fraction of the training."""
        return int(fraction * self.epochs + 1e-9)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.optimizer(trained(network, self.exempt))
        for option in (self.regularizer, StochasticDepth.of(self.stochastic_depth), QuantNoise.of(self.quant_noise)):
            if option is not None:
                option.check(network)
        if self.schedule is not None:
            self.schedule(0.0)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        distill = Distillation.of(self.distill)
        if distill is not None:
            distill = replace(distill, teacher=setting.network(distill.teacher))
        history = fit_(
            network,
            setting.data.train_loader(self.batch_size, setting.seed, self.augment),
            setting.data.val_loader(self.batch_size) if setting.data.sizes["val"] else None,
            epochs=self.epochs,
            optimizer=self.optimizer,
            schedule=self.schedule,
            seed=setting.seed,
            checkpoint=setting.folder / "last.ckpt",
            device=setting.device,
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            accumulate=self.accumulate,
            compile=self.compile,
            channels_last=self.channels_last,
            devices=self.devices,
            regularizer=self.regularizer,
            exempt=self.exempt,
            until=self.until,
            stochastic_depth=self.stochastic_depth,
            quant_noise=self.quant_noise,
            pruning=self.pruning,
            distill=distill,
            snapshots={n: snapshot(setting.folder, n) for n in map(self.epochs_at, self.snapshots)},
            on_epoch=setting.on_epoch,
            progress=setting.progress,
            label=setting.name,
        )
        told = []
        if self.regularizer is not None and self.regularizer.terms:
            told = outweighed(history, self.regularizer.weights, self.epochs, setting.data.num_classes)
        return Done(history, warnings=told)


def snapshot(folder: Path, epochs: int) -> Path:
    """The file of the weights after so many epochs of the phase whose folder it is."""
    return folder / f"epoch-{epochs}.pt"


@dataclass(frozen=True, kw_only=True)
class Factorize(Phase):
    """Choose ranks and replace layers by their factors.

    Args:
        decomposition: `conv` and `linear`, as `lowrank_exp.profile` takes them.
        rank: called with the profiles, gives the plan: `lowrank_exp.allocate` with its policy and budget.
        measure: for policies that look at data: `quality` (accuracy or loss), `images` for validation drawn by `seed`,
            `samples` of ranks per layer and what the `others` are (`with_accuracy`), `gradients`: training images for
            the sensitivity, and `batch_size`.
        reconstruct: a fit to training images: `fit` (whitened, response, relu; null: to the weights alone), `images`,
            `batch_size`, and the fit's own options.
    """

    decomposition: Mapping[str, Any]
    rank: Callable[..., Plan]
    measure: Mapping[str, Any] = field(default_factory=dict)
    reconstruct: Mapping[str, Any] = field(default_factory=lambda: {"fit": None})

    def __post_init__(self) -> None:
        options = dict(self.reconstruct)
        if (fit := options.pop("fit", None)) is None:
            return
        for name in ("images", "batch_size"):
            value = options.pop(name, None)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"reconstruct.{name} must be a whole number of at least 1, got {value!r}")
        check_options(fit, **options)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        layers = profile(network, example, Decompositions.of(self.decomposition))
        plan = self.stand_in(layers, lambda ranks: 1.0)
        with finite(network):
            replay_to_plan_(network, plan, self.reconstruct.get("fit"), self.reconstruct.get("asymmetric", False))

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        plan = self.plan(network, setting)
        done = planned(plan, self.rank, network)
        factorize_(network, plan, store=setting.svds, **self.fit_to(setting))
        return done

    def stand_in(self, layers: Mapping[str, LayerProfile], score: Callable[..., float]) -> Plan:
        """A plan with made-up sensitivities and the given `score`, of which no more than the shapes is to be believed.

        The score is asked for as many rank sets as that of the data would be.
        """
        if "accuracy" in self.needs:
            layers = with_accuracy(layers, score, **self._sampling)
        if "sensitivity" in self.needs:
            layers = {name: _stand_in(layer) for name, layer in layers.items()}
        try:
            return self._planned(layers, score)
        except BudgetError as error:
            # The ladders of Tucker-2 and the tensor train follow the spectra, which are not known yet.
            if not error.between or not any(layer.ladder_follows_weights for layer in layers.values()):
                raise
            lowest = {layer.name: layer.ranks[0] for layer in layers.values() if layer.rungs}
            return allocate(layers, "fixed", ranks=lowest)

    def profiles(self, network: nn.Module, setting: Setting) -> dict[str, LayerProfile]:
        """What the layers of this network would cost and keep."""
        return profile(network, setting.example, Decompositions.of(self.decomposition), store=setting.svds)

    def plan(self, network: nn.Module, setting: Setting) -> Plan:
        """The ranks that the policy chooses for this network."""
        layers = self.profiles(network, setting)
        if "sensitivity" in self.needs:
            loader = setting.data.train_loader(self.measure["batch_size"], self.measure["seed"], augment=False)
            images = min(self.measure["gradients"], setting.data.sizes["train"])
            layers = with_sensitivity(layers, network, FirstImages(loader, images, labels=True), store=setting.svds)
        with contextlib.ExitStack() as stack:
            score = None
            if self.needs & {"accuracy", "score"}:
                score = stack.enter_context(self._score(network, layers, setting))
            if "accuracy" in self.needs:
                layers = with_accuracy(layers, score, **self._sampling)
            with warnings.catch_warnings():  # said once, by the walk
                warnings.simplefilter("ignore")
                return self._planned(layers, score)

    def _planned(self, layers: Mapping[str, LayerProfile], score: Callable[..., float] | None) -> Plan:
        return self.rank(layers, score=score) if "score" in self.needs else self.rank(layers)

    @property
    def remedy(self) -> str:
        return "Keep more (a larger budget or larger ranks), or train on afterwards"

    @property
    def validates(self) -> str:
        return "this rank policy measures accuracies" if self.needs & {"accuracy", "score"} else ""

    @property
    def needs(self) -> frozenset[str]:
        """What the policy looks at beside the weights."""
        options = getattr(self.rank, "keywords", {})
        return needs(options["policy"], options) if "policy" in options else frozenset()

    @property
    def _sampling(self) -> dict[str, Any]:
        return {name: self.measure[name] for name in ("samples", "others")}

    def scored_images(self, data: ImageData) -> int:
        """How many validation images a score looks at."""
        return min(self.measure["images"], data.sizes["val"])

    def _score(self, network: nn.Module, layers: Mapping[str, LayerProfile], setting: Setting) -> NetworkScore:
        images, seed = self.measure["images"], self.measure["seed"]
        decides = [tensors_digest(network), setting.data.digest, images, seed]
        return NetworkScore(
            network,
            layers,
            setting.data.val_sample(images, seed, self.measure["batch_size"]),
            quality=self.measure["quality"],
            device=setting.device,
            svds=setting.svds,
            folder=setting.scores / digest(decides)[:16],
            progress=setting.progress,
        )

    def fit_to(self, setting: Setting) -> dict[str, Any]:
        """What `factorize_` takes beside the plan: nothing where the fit is to the weights."""
        options = dict(self.reconstruct)
        if (fit := options.pop("fit", None)) is None:
            return {}
        images = min(options.pop("images"), setting.data.sizes["train"])
        if fit == "relu":
            options["images"] = images
        loader = setting.data.train_loader(options.pop("batch_size"), setting.seed, augment=False)
        return {"reconstruct": fit, "batches": FirstImages(loader, images), "seed": setting.seed, **options}


def planned(plan: Plan, rank: Callable[..., Plan], network: nn.Module) -> Done:
    """What is to be said of a plan that is carried out: a budget missed, or nothing changed. See `rank.missed`."""
    missed = missed_budget(plan, rank, network)
    return Done(plan=plan, warnings=[*([missed] if missed else []), *without_effect(plan)], missed=bool(missed))


@dataclass(frozen=True, kw_only=True)
class Recompose(Phase):
    """Turn factorized layers back into dense ones, to be factorized anew.

    Args:
        layers: names or `re:` patterns of the layers that were factorized.
    """

    layers: Sequence[str] = ("re:.*",)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        recompose_(network, self.layers)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        recompose_(network, self.layers)
        return Done()


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Phase):
    """Estimate batch-norm statistics again on training images; nothing to do where there is no batch norm.

    Args:
        max_images: so many training images, or all where there are fewer; without augmentation.
        batch_size: images per forward pass.
    """

    max_images: int
    batch_size: int

    def __post_init__(self) -> None:
        for name, least in (("max_images", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"recalibration needs {name} of at least {least}, a whole number, got {value!r}")

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=False)
        images = min(self.max_images, setting.data.sizes["train"])
        return Done(applied=recalibrate_(network, loader, images, setting.device) > 0)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Phase):
    """Change nothing: a row of figures for the network as it is."""

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        return Done()


def _stand_in(layer: LayerProfile) -> LayerProfile:
    """A profile with sensitivities that nobody has measured, for the walk."""
    return replace(layer, sensitivity=layer.error, others=tuple(map(_stand_in, layer.others)))
