"""Every option of a fit, as one object."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from lowrank_exp.checks import boolean, is_number, one_of, whole
from lowrank_exp.regularizers import Regularizer, parameter_groups
from lowrank_exp.training.memory_format import AUTO, check_channels_last
from lowrank_exp.training.parts.distillation import Distillation
from lowrank_exp.training.parts.part import Part
from lowrank_exp.training.parts.penalties import Penalized
from lowrank_exp.training.parts.pruner import Pruning
from lowrank_exp.training.parts.quant_noise import QuantNoise
from lowrank_exp.training.parts.snapshots import Kept
from lowrank_exp.training.parts.stochastic_depth import StochasticDepth
from lowrank_exp.training.parts.until import Ending, Until

Metrics = dict[str, float]  # of an epoch, by name

PRECISIONS = ("fp32", "bf16")
MADE_OF_MAPPINGS = {"stochastic_depth": StochasticDepth, "quant_noise": QuantNoise, "distill": Distillation}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: what `fit_` is told beside network, images and where it runs.

    A variant of it is `dataclasses.replace(recipe, epochs=10)`, which is checked as the whole is.

    Args:
        epochs: passes over the training images; 0 trains nothing.
        optimizer: called with the trainable parameters, such as `partial(torch.optim.SGD, lr=0.1)`.
        schedule: progress (step / total steps) in [0, 1) to a factor on the learning rate; None keeps it.
        batch_size, augment: images per batch, and whether the data's augmentation is on: for those who make the
            loaders, as phases do. `fit_` takes the loaders that it is given.
        label_smoothing: of the training loss, in [0, 1).
        precision: 'fp32', or 'bf16': the network under torch's autocast, in training and validation; weights, loss
            and optimizer stay in float32.
        accumulate: batches per step of optimizer and schedule, whose gradient is the mean over all their images;
            at the end of an epoch a smaller group makes a step as well.
        compile: run the network through `torch.compile`, within the fit only.
        channels_last: compute in that memory format; 'auto': where it is faster, see `channels_last_gains`.
        devices: processes that train together, each on a device of its own (on the CPU: on its share of the threads).
            They share out every batch; see `distributed.py`.
        regularizer: penalties whose gradients are added to those of the loss; None: the loss alone. The history has
            the mean of each over the epoch's steps, without its weight, as `penalty_<name>`.
        exempt: what the optimizer's weight decay spares: `s`, `U`, `V`, `factors`, `norm`, `bias`, and names of
            parameters; see `lowrank_exp.regularizers.parameter_groups`.
        stochastic_depth: residual blocks are skipped at random; None: never. Not with `compile`.
        quant_noise: weights are quantized at random in every forward pass in training; None: never.
        distill: another network has a part in the training loss, and `train_loss` is that of both parts; None: the
            labels alone. Not with several devices.
        snapshots: when the network's weights are kept in files of their own, beside the checkpoint: fractions of the
            epochs, in [0, 1], rounded down to whole ones; 0: before the first one. Not with several devices.
        until: ends the fit early, see `lowrank_exp.training.parts.until.Until`; the schedule stays that of all epochs.
        pruning: filters are silenced, revived or removed on the way, see `Pruning`; the history then has
            `silent_filters` or `macs` per epoch. Not with `compile`, several devices or `quant_noise`; with
            `stochastic_depth` only where nothing is removed.

    Memory format and compilation change the last bits of the numbers; so do devices and accumulation, and the
    statistics of batch norm; bf16 changes them from the third digit.

    `stochastic_depth`, `quant_noise` and `distill` may be given as mappings of their options, such as `{"last": 0.5}`.

    Raises:
        ValueError: an option out of range, or two that do not go together.
    """

    epochs: int
    optimizer: Callable[[Iterable[Parameter]], Optimizer]
    schedule: Callable[[float], float] | None = None
    batch_size: int = 64
    augment: bool = True
    label_smoothing: float = 0.0
    precision: str = "fp32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool | str = AUTO
    devices: int = 1
    regularizer: Regularizer | None = None
    exempt: Sequence[str] = ()
    stochastic_depth: StochasticDepth | None = None
    quant_noise: QuantNoise | None = None
    distill: Distillation | None = None
    snapshots: Sequence[float] = ()
    until: Until | None = None
    pruning: Pruning | None = None

    def __post_init__(self) -> None:
        whole("epochs", self.epochs, 0, f"epochs is {self.epochs!r}; allowed is an integer, 0 (train nothing) or more")
        whole("batch_size", self.batch_size, 1, f"batch_size is {self.batch_size!r}; allowed is an integer, 1 or more")
        if not is_number(self.label_smoothing) or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing!r}; allowed is a fraction in [0, 1)")
        either = f"precision is {self.precision!r}; allowed are {' and '.join(PRECISIONS)}"
        one_of("precision", self.precision, PRECISIONS, either)
        count = f"accumulate is {self.accumulate!r}; allowed is an integer, 1 (a step per batch) or more"
        whole("accumulate", self.accumulate, 1, count)
        boolean("compile", self.compile, f"compile is {self.compile!r}; allowed are true and false")
        check_channels_last(self.channels_last)
        count = f"devices is {self.devices!r}; allowed is an integer, 1 (this process alone) or more"
        whole("devices", self.devices, 1, count)
        for name, kind in MADE_OF_MAPPINGS.items():
            object.__setattr__(self, name, _make_part(name, getattr(self, name), kind))
        for part in self.parts:
            part.refuse(self)

    @property
    def parts(self) -> list[Part]:
        """What the training has beside the loss by the labels, in the order in which a step asks them."""
        given = [
            self.stochastic_depth,
            None if self.regularizer is None else Penalized(self.regularizer),
            self.quant_noise,
            self.pruning,
            self.distill,
            None if self.until is None else Ending(self.until),
            Kept(self.snapshots) if self.snapshots else None,
        ]
        return [part for part in given if part is not None]

    def epochs_at(self, fraction: float) -> int:
        """Whole epochs that are a fraction of the training."""
        return int(fraction * self.epochs + 1e-9)

    def check(self, network: nn.Module) -> None:
        """Nothing, if `network` (which may lie on the meta device) can be trained so.

        Raises:
            ValueError: it has no parameter to train, not the layers that an option is for, or a schedule that gives
                something that is not a factor (negative or not finite).
        """
        self.make_optimizer(network)
        for part in self.parts:
            part.check(network)
        self.factors(1)

    def factors(self, count: int) -> list[float]:
        """The factor on the learning rate at `count` places, from the beginning on.

        Raises:
            ValueError: the schedule gives something that is not a factor (negative or not finite).
        """
        factors = []
        for index in range(count):
            factor = 1.0 if self.schedule is None else float(self.schedule(index / count))
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"the schedule gives {factor} at progress {index / count}; allowed are 0 and above")
            factors.append(factor)
        return factors

    def make_optimizer(self, network: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters, in groups where weight decay spares some.

        Raises:
            ValueError: `exempt` names no parameter, see `parameter_groups`, or there is nothing to train.
        """
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError(
                "the network has no parameter that needs a gradient: there is nothing to train. Call "
                "network.requires_grad_(True) where it is built, or choose a method that does not train: oneshot, "
                "evaluate"
            )
        return self.optimizer(parameter_groups(network, None, self.exempt) if self.exempt else trainable)

    def loss(self, logits_NC: Tensor, labels_N: Tensor, reduction: str) -> Tensor:
        """The training loss by the labels, its `mean` or `sum` over the images."""
        return cross_entropy(logits_NC, labels_N, label_smoothing=self.label_smoothing, reduction=reduction)

    def described(self) -> dict[str, Any]:
        """What decides the fit's numbers, as plain data; optimizer and schedule have to be tried for that."""
        names = ("epochs", "precision", "accumulate", "compile", "channels_last", "devices")
        deciding = {"label_smoothing": float(self.label_smoothing), **{name: getattr(self, name) for name in names}}
        if self.exempt:
            deciding["exempt"] = list(self.exempt)
        for part in self.parts:
            deciding |= part.described()
        return deciding


def _make_part(name: str, given: Any, kind: type) -> Any:
    """An option that may be given as a mapping of its own options, or None.

    Raises:
        ValueError: something else, an unknown option, or one that is missing.
    """
    if given is None or isinstance(given, kind):
        return given
    fields = dataclasses.fields(kind)
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    others = [field.name for field in fields if field.name not in needed]
    if isinstance(given, Mapping) and set(needed) <= set(given) <= {*needed, *others}:
        return kind(**given)
    names = f"{', '.join(needed)} and perhaps {', '.join(others)}" if needed else ", ".join(others)
    raise ValueError(f"{name} is {given!r}; allowed are null and a mapping of {names}")
