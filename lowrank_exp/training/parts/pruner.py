"""Pruning at work in a fit: carries out what a schedule asks for, on the network and what the optimizer remembers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lowrank_exp.edits import Edit, edits_of
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network_file.edit_records import from_records, to_records
from lowrank_exp.pruning.criteria.filters import by_filter
from lowrank_exp.pruning.mask import Masks
from lowrank_exp.pruning.remove import remove_
from lowrank_exp.pruning.renumber import renumber
from lowrank_exp.pruning.schedules import Action, Mask, Moment, Remove, Revive, Schedule, View, Zero
from lowrank_exp.pruning.times import PrunedTimes
from lowrank_exp.pruning.where_read import where_read
from lowrank_exp.surgery import replay_
from lowrank_exp.training import generators
from lowrank_exp.training.parts.optimizer_surgery import follow_removal_, forget_
from lowrank_exp.training.parts.part import AtWork, Fit, History, Part, Running, refuse_together

STREAM = 0x7E  # tells the draws from those of the fit's own seed


@dataclass(frozen=True)
class Pruning(Part):
    """How a network is pruned while it is trained: an option of `fit_`.

    Attributes:
        schedule: of `lowrank_exp.pruning.schedules`.
        input_shape: of one image, `(C, ...)`.
        layers: names or `re:` patterns of the layers whose filters may go, see `View.of`; None: all convolutions.
        ignored: names or `re:` patterns of layers of whose filters none goes.
        batches: gives images and labels for criteria that look at data; called with the number of the ranking.
        held_out: images and labels for the oracle.
        folder: where the oracle keeps what it has measured, see `View`.
        example: an image, `(1, C, ...)`, where the network does not take one of zeros.
        times: of what is left of the network, for schedules with a target for them.
    """

    name: ClassVar[str] = "pruning"

    schedule: Schedule
    input_shape: Sequence[int]
    layers: Sequence[str] | None = None
    ignored: Sequence[str] = ()
    batches: Callable[[int], Iterable] | None = None
    held_out: Iterable | None = None
    folder: Path | None = None
    example: Tensor | None = field(default=None, compare=False)
    times: PrunedTimes | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.schedule}, layers {self.layers}, ignored {list(self.ignored)}"

    def refuse(self, recipe: Any) -> None:
        depth = recipe.stochastic_depth is not None and self.schedule.removes
        clashes = [
            ("compile is true", recipe.compile, "compile=false"),
            (f"devices is {recipe.devices}", recipe.devices > 1, "devices=1"),
            ("quant_noise is given", recipe.quant_noise is not None, "quant_noise=null"),
            ("stochastic_depth is given", depth, "stochastic_depth=null"),
        ]
        refuse_together(clashes, "filters shall be pruned during the fit, which it would not see")

    def described(self) -> dict[str, Any]:
        return {self.name: str(self)}

    def shape_(self, network: nn.Module, state: Any) -> None:
        if state is not None:
            replay_(network, from_records(state["edits"]))

    def at_work(self, fit: Fit) -> "Pruner":
        stored = fit.stored.get(self.name)
        return Pruner(self, fit.network, fit.seed, fit.steps_per_epoch, fit.recipe.epochs, stored, fit.epochs_done)

    def view(self, network: nn.Module) -> View:
        """The network as the schedule sees it, before anything has been pruned."""
        view = View.of(network, self.input_shape, self.layers, self.ignored, self.batches, self.example)
        return replace(view, times=self.times)


class Pruner(AtWork):
    """The state of pruning in one fit.

    Args:
        pruning: what is pruned, and when.
        network: as it was before the fit; it gets the shapes that `stored` says.
        seed: of new filters; other numbers than the fit's own, which has the same seed.
        steps_per_epoch, epochs: of the whole fit.
        stored: what `state` gave, of a fit that goes on.
        epochs_done: of that fit.

    Raises:
        ValueError: the network cannot be pruned so.
    """

    def __init__(
        self,
        pruning: Pruning,
        network: nn.Module,
        seed: int,
        steps_per_epoch: int,
        epochs: int,
        stored: Mapping[str, Any] | None = None,
        epochs_done: int = 0,
    ) -> None:
        self.network, self.steps_per_epoch, self.epochs = network, steps_per_epoch, epochs
        self.schedule = pruning.schedule
        self.generator = torch.Generator().manual_seed(seed ^ STREAM)
        self.generators = [self.generator]
        self.masks: Masks | None = None
        self.held: list[tuple[Parameter, Tensor]] = []  # masked parameters with their masks
        self.old: dict[str, Tensor] = {}  # weights of masked layers, as they were before
        self.revived: dict[str, tuple[int, ...]] = {}
        self.lengths: list[tuple[Tensor, Tensor]] = []  # of gradients of revived and other filters, a pair per step
        self.optimizer: Optimizer | None = None
        self.step = epochs_done * steps_per_epoch
        self.view = pruning.view(network)
        self.schedule.check(self.view, steps_per_epoch, epochs)
        if (batches := pruning.batches) is not None:
            self.view.batches = lambda ranking: _Undisturbed(batches(ranking), network)
        if pruning.held_out is not None:
            self.view.held_out = _Undisturbed(pruning.held_out, network)
        self.view.folder = pruning.folder
        self.given = len(edits_of(network))
        if stored is not None:
            self._take_up(stored)

    def start(self, running: Running) -> None:
        """Take the optimizer."""
        self.optimizer = running.optimizer
        self._hold()

    def before_epoch(self, history: History) -> None:
        """What is due before an epoch's first step."""
        accuracies = [line["val_accuracy"] for line in history]
        self.view.accuracies = [accuracy for accuracy in accuracies if accuracy is not None]
        self._ask(begins=True)

    def on_gradients(self) -> None:
        """The gradients: none for silent filters, more for revived ones where the schedule says so."""
        for parameter, mask in self.held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)
        if self.revived:
            self._strengthen(self.schedule.gradient_factor(self._moment(begins=False)))

    def after_step(self) -> None:
        """Silent filters stay so; then what is due."""
        if self.masks is not None:
            self.masks.apply_(self.network)
        self.step += 1
        self._ask(begins=False)

    def metrics(self) -> dict[str, float]:
        """How many filters are silent, or what the network costs.

        After a revival also the mean length of the gradient of a revived filter's weights, before the schedule's
        factor, and of another filter's in the same layers.
        """
        metrics: dict[str, float] = {}
        if self.lengths:
            revived, others = (torch.cat(steps).double().mean().item() for steps in zip(*self.lengths, strict=True))
            metrics = {"gradient_revived": revived, "gradient_others": others}
        self.lengths = []
        if self.schedule.removes:
            return metrics | {"macs": self.view.macs()}
        return metrics | {"silent_filters": sum(map(len, self.view.masked.values()))}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain data and tensors."""
        return {
            "edits": to_records(edits_of(self.network)[self.given :]),
            "masked": _lists(self.view.masked),
            "held": self.masks is not None,
            "first": None if self.view.first is None else _lists(self.view.first),
            "revived": _lists(self.revived),
            "rankings": self.view.rankings,
            "old": self.old,
        } | ({} if self.view.times is None else {"times": self.view.times.state()})

    # -- what is done -------------------------------------------------------------------------------------------------

    def _ask(self, begins: bool) -> None:
        action = self.schedule.due(self._moment(begins), self.view)
        if action is not None:
            self.carry_out(action)

    def _moment(self, begins: bool) -> Moment:
        return Moment(self.step, self.steps_per_epoch, self.epochs, begins)

    @torch.no_grad()
    def carry_out(self, action: Action) -> None:
        """Do to the network and to the optimizer what a schedule asks for."""
        match action:
            case Mask(filters):
                self._mask(_plain(filters), action.remember)
            case Zero(filters):
                Masks(self.network, self.view.groups, filters, norms=False).apply_(self.network)
                self.view.masked = _plain(filters)
            case Revive():
                self._revive(action, self.masks)
            case Remove(keep):
                self._remove(keep)

    def _mask(self, filters: dict[str, tuple[int, ...]], remember: bool) -> None:
        if remember:
            self.old = {layer: self.network.get_submodule(layer).weight.detach().clone() for layer in filters}
        self.masks = Masks(self.network, self.view.groups, filters)
        self.masks.apply_(self.network)
        self._hold()
        self._forget(self.masks.entries)
        self.view.masked, self.revived = filters, {}
        self.view.first = filters if self.view.first is None else self.view.first

    def _hold(self) -> None:
        entries = {} if self.masks is None else self.masks.entries
        found = [(p, entries[name]) for name, p in self.network.named_parameters() if name in entries]
        self.held = [(parameter, mask.to(parameter.device)) for parameter, mask in found]

    def _forget(self, entries: Mapping[str, Tensor]) -> None:
        """What the optimizer remembers of these entries of parameters."""
        for name, parameter in self.network.named_parameters():
            if name in entries and self.optimizer is not None:
                forget_(self.optimizer, parameter, entries[name])

    def _revive(self, action: Revive, masks: Masks) -> None:
        """New filters; what lies behind them is as in a new network, and what reads them as the action says."""
        modules = dict(self.network.named_modules())
        forgotten = dict(masks.entries)
        for name, mask in self._reading_silent(modules, masks).items() if action.next_inputs != "kept" else ():
            weight, key = modules[name].weight, f"{name}.weight"
            bound = weight[0].numel() ** -0.5 if action.next_inputs == "redrawn" else 0.0
            drawn = (torch.rand(weight.shape, generator=self.generator) * 2 - 1) * bound
            weight.copy_(torch.where(mask.to(weight.device), drawn.to(weight), weight))
            forgotten[key] = mask | forgotten[key] if key in forgotten else mask
        for layer, filters in masks.filters.items():
            action.null_space.reinitialise_(modules[layer], filters, self.generator, self.old[layer])
        for name, mask in masks.entries.items():
            norm, _, key = name.rpartition(".")
            if key == "weight" and hasattr(modules[norm], "running_mean"):
                modules[norm].weight.masked_fill_(mask.to(modules[norm].weight.device), 1)
        self._forget(forgotten)
        self.revived = dict(masks.filters)
        self.masks, self.held, self.old, self.view.masked = None, [], {}, {}

    def _reading_silent(self, modules: Mapping[str, nn.Module], masks: Masks) -> dict[str, Tensor]:
        """By layer where the weights of its filters that are not silent read a channel of which nothing comes."""
        read: dict[str, set[int]] = {}
        for group in self.view.groups:
            for layer, entries in group.consumers.items():
                if layer not in group.producers and isinstance(modules[layer], LAYERS):
                    read.setdefault(layer, set()).update(e for c in masks.silent(group) for e in entries[c])
        found = {layer: where_read(modules[layer], inputs) for layer, inputs in read.items() if inputs}
        own = masks.entries
        return {layer: mask & ~own[key] if (key := f"{layer}.weight") in own else mask for layer, mask in found.items()}

    def _remove(self, keep: Mapping[str, Sequence[int]]) -> None:
        before = dict(self.network.named_parameters())
        removal = remove_(self.network, keep, groups=self.view.groups)
        if self.optimizer is not None:
            follow_removal_(self.optimizer, before, self.network, removal.slices)
        self.view.groups = renumber(self.view.groups, removal.edits)

    def _strengthen(self, factor: float) -> None:
        revived, others = [], []
        for name, filters in self.revived.items():
            layer = self.network.get_submodule(name)
            if layer.weight.grad is None:
                continue
            gradient_GF = by_filter(layer, layer.weight.grad)
            lengths_O = torch.linalg.vector_norm(gradient_GF.flatten(2), dim=2).flatten()
            back = torch.zeros(len(lengths_O), dtype=torch.bool)
            back[list(filters)] = True
            revived.append(lengths_O[back])
            others.append(lengths_O[~back])
            if factor != 1:
                by_group = gradient_GF.shape[1]
                for f in filters:
                    gradient_GF[f // by_group, f % by_group] *= factor
        if revived:
            self.lengths.append((torch.cat(revived), torch.cat(others)))

    def _take_up(self, stored: Mapping[str, Any]) -> None:
        """Shapes, masks and memories of a fit that goes on; numbers are loaded by others."""
        edits: list[Edit] = from_records(stored["edits"])
        replay_(self.network, edits)
        device = next(self.network.parameters()).device
        self.view.groups = renumber(self.view.groups, edits)
        self.view.rankings, self.view.masked = stored["rankings"], _plain(stored["masked"])
        self.view.first = None if stored["first"] is None else _plain(stored["first"])
        self.revived = _plain(stored["revived"])
        self.old = {layer: weight.to(device) for layer, weight in stored["old"].items()}
        if self.view.times is not None:
            self.view.times.take_up(stored["times"])
        if stored["held"]:
            self.masks = Masks(self.network, self.view.groups, self.view.masked)


@dataclass(frozen=True)
class _Undisturbed:
    """Batches whose drawing leaves the fit's generators as they were."""

    batches: Iterable
    network: nn.Module

    def __iter__(self) -> Iterator[Any]:
        with generators.undisturbed(next(self.network.parameters()).device):
            yield from self.batches


def _plain(filters: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
    return {layer: tuple(chosen) for layer, chosen in filters.items() if chosen}


def _lists(filters: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    return {layer: list(chosen) for layer, chosen in filters.items()}
