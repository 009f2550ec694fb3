"""Training a classifier: the LightningModule, and what it counts on the way.

N images of a batch, C classes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from lowrank_exp.network.inputs import HALF
from lowrank_exp.training import distributed
from lowrank_exp.training.divergence import LOSS, TRY, Broken, broken_weights
from lowrank_exp.training.memory_format import AUTO, channels_last_gains, in_channels_last
from lowrank_exp.training.parts.part import AtWork, Running
from lowrank_exp.training.recipe import Metrics, Recipe

CPU = torch.device("cpu")


class Classifier(pl.LightningModule):
    """Cross-entropy training of a network, one optimizer step per batch or per group of batches.

    Optimization is manual (Lightning's word): zero_grad, forward, backward, step, schedule, written out
    below. It is what automatic optimization would do, for two thirds of what Lightning costs per step. Nothing is
    read back from the device within an epoch: losses and hits stay tensors until its end.

    A step's gradient is the mean over all images of its batches, in all processes:

        g = (1 / sum_b N_b) sum_b sum_i grad loss(image i of batch b)

    Where there is one batch and one process, that is the gradient of torch's mean loss; else losses are summed, and
    the gradients divided by the number of images before the step.

    Args:
        network: images (N, ...) to logits (N, C); passed in, not stored in hyper-parameters.
        recipe: how it is trained.
        total_steps: optimizer steps of the whole fit; progress is step / total_steps.
        parts: what else has a say in it, at work in this fit, by name; see `parts/part.py`.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, total_steps: int, parts: Mapping[str, AtWork] | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.recipe = recipe
        self.total_steps = total_steps
        self.parts = dict(parts or {})
        self.channels_last = recipe.channels_last
        # A method, as torch's compiled module would put its weights under names of its own beside the network's.
        self.compute = torch.compile(network).__call__ if recipe.compile else network.__call__
        self._processes = 1
        self.history: list[Metrics] = []
        self.rates: list[float] = []
        self.trained = self.validated = _Tally()
        self.began = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C)."""
        if self.channels_last == AUTO:
            self.channels_last = channels_last_gains(self.network, images)
        if self.channels_last:
            images = in_channels_last(images)
        if self.recipe.precision == "fp32":
            logits_NC = self.compute(images)
            return logits_NC.float() if logits_NC.dtype in HALF else logits_NC
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.compute(images).float()

    def on_train_start(self) -> None:
        """Take optimizer and schedule as they are, without Lightning's wrapper."""
        self._stepper = self.optimizers(use_pl_optimizer=False)
        self._scheduler = self.lr_schedulers()
        self._processes = self.trainer.world_size
        self._reduction = "sum" if self.recipe.accumulate > 1 or self._processes > 1 else "mean"
        running = Running(self._stepper, self.device, self.global_rank, self._processes, self._reduction)
        for part in self.parts.values():
            part.start(running)

    def on_train_epoch_start(self) -> None:
        """Start the clock and the counts."""
        self.began = time.perf_counter()
        self.rates = []
        self.trained = _Tally(self.device, self._processes)
        for part in self.parts.values():
            part.before_epoch(self.history)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """One step: zero_grad, forward, backward, step, schedule; of a group of batches the last one steps."""
        images, labels, count = _counted(batch)
        parts = self.parts.values()
        if first := batch_idx % self.recipe.accumulate == 0:
            self._stepper.zero_grad()
            self._grouped = 0
            with self._explained():
                for part in parts:
                    part.before_step()
        self._grouped += count
        steps = (batch_idx + 1) % self.recipe.accumulate == 0 or batch_idx + 1 == self.trainer.num_training_batches
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part.around_pass(images, first))
            logits_NC = self.forward(images)
            loss = self._loss(self.recipe.loss, logits_NC, labels, self._reduction)
            for part in parts:
                loss = part.on_loss(loss, logits_NC, images)
            self._backward(loss, steps)
        if steps:
            self._step()
        self.trained.add(logits_NC.detach(), labels, loss.detach(), count, self._reduction == "sum")

    def _backward(self, loss: Tensor, steps: bool) -> None:
        """Several processes average their gradients, once per step: in the last backward pass before it."""
        if self._processes == 1:
            loss.backward()
            return
        model: Any = self.trainer.strategy.model
        with nullcontext() if steps else model.no_sync():
            self.manual_backward(loss)

    def _step(self) -> None:
        if self._reduction == "sum":  # over images, and then averaged over processes
            for group in self._stepper.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(self._processes / self._grouped)
        with self._explained():
            for part in self.parts.values():
                part.on_gradients()
        self.rates.append(self._stepper.param_groups[0]["lr"])
        self._stepper.step()
        for part in self.parts.values():
            part.after_step()
        if self._scheduler is not None:
            self._scheduler.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Without validation images the last batch ends the epoch."""
        if not self.trainer.enable_validation and batch_idx + 1 == self.trainer.num_training_batches:
            self._raise_if_diverged()
            self._write_history(None, None)

    def on_validation_epoch_start(self) -> None:
        """The epoch's training is over: refuse to go on if it diverged."""
        self._raise_if_diverged()
        for part in self.parts.values():
            part.before_validation()
        self.validated = _Tally(self.device, self._processes)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Count loss and hits of a batch."""
        images, labels, count = _counted(batch)
        logits_NC = self.forward(images)
        self.validated.add(logits_NC, labels, self._loss(cross_entropy, logits_NC, labels, "sum"), count, summed=True)

    def on_validation_epoch_end(self) -> None:
        """Write the epoch's line of the history; callbacks find it there in `on_train_epoch_end`."""
        for part in self.parts.values():
            part.after_validation()
        bad = (~self.validated.losses_B().isfinite()).nonzero()
        if len(bad):
            value = self.validated.losses_B()[bad[0]].item()
            raise self._diverged(Broken(len(self.rates) - 1, 0, "the validation loss", value, TRY))
        self._write_history(*self.validated.means())

    def _write_history(self, val_loss: float | None, val_accuracy: float | None) -> None:
        if (name := broken_weights(self.network)) is not None:
            raise self._diverged(Broken(len(self.rates) - 1, 0, f"an entry of {name}", float("nan"), TRY))
        train_loss, train_accuracy = self.trained.means()
        line = {
            "epoch": self.current_epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": self.rates[0],
            "seconds": time.perf_counter() - self.began,
        }
        for part in self.parts.values():
            line |= part.metrics()
        self.history.append(line)

    def configure_optimizers(self) -> Any:
        """The optimizer, and one LambdaLR step per optimizer step.

        LambdaLR asks once more after the last step, for a rate that nothing uses; progress stays below 1
        there.
        """
        stepper = self.recipe.make_optimizer(self.network)
        if self.recipe.schedule is None:
            return stepper
        schedule, total = self.recipe.schedule, self.total_steps
        scheduler = LambdaLR(stepper, lambda step: schedule(min(step, total - 1) / total))
        return {"optimizer": stepper, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _loss(self, loss: Callable[..., Tensor], logits_NC: Tensor, labels_N: Tensor, reduction: str) -> Tensor:
        """A loss; labels that are none of the network's classes are told as such."""
        try:
            return loss(logits_NC, labels_N, reduction=reduction)
        except IndexError as error:
            low, high = labels_N.min().item(), labels_N.max().item()
            raise ValueError(
                f"labels run from {low} to {high}, but the network has {logits_NC.shape[1]} classes, numbered from 0: "
                "give it the data set's number of classes"
            ) from error

    def _raise_if_diverged(self) -> None:
        """Refuse what is not finite in the epoch's training: whatever became so first."""
        found = [broken for part in self.parts.values() for broken in part.broken()]
        losses_B = self.trained.losses_B()
        bad = (~losses_B.isfinite()).nonzero()
        if len(bad):
            batch = int(bad[0])
            found.append(Broken(batch // self.recipe.accumulate, 0, LOSS, losses_B[batch].item(), TRY))
        if found:
            raise self._diverged(min(found))

    def _diverged(self, broken: Broken) -> FloatingPointError:
        """The error that says where, what, and what to try."""
        step, more = broken.step, "".join(part.advice(broken.step) for part in self.parts.values())
        return FloatingPointError(
            f"{broken.what} is {broken.value} at epoch {self.current_epoch}, step {step} of {len(self.rates)}, "
            f"learning rate {self.rates[step]:g}. {broken.advice}{more}"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A factorization of weights that are not finite fails before the epoch ends: then too, what broke first."""
        try:
            yield
        except torch.linalg.LinAlgError:
            self.rates = [*self.rates, self._stepper.param_groups[0]["lr"]]
            if self.trained.losses:
                self._raise_if_diverged()
            raise


def _counted(batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, int]:
    """Images, labels, and how many images the batch has in all processes: a shared batch brings that along."""
    images, labels, *count = batch
    return images, labels, count[0] if count else len(labels)


class AfterEveryEpoch(pl.Callback):
    """Tells the parts of the end of an epoch, before the callback that writes the checkpoint.

    It is a callback because Lightning asks the module itself last.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Each may add to the epoch's line, or end the fit."""
        for part in pl_module.parts.values():
            if part.after_epoch(pl_module.history[-1], pl_module.history):
                trainer.should_stop = True


class _Tally:
    """Losses and hits of batches, kept on the device until they are asked for; then those of all processes."""

    def __init__(self, device: torch.device = CPU, processes: int = 1) -> None:
        self.device = device
        self.processes = processes
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []
        self.sizes: list[int] = []
        self.weights: list[int] = []

    def add(self, logits_NC: Tensor, labels_N: Tensor, loss: Tensor, size: int, summed: bool) -> None:
        """A batch of `size` images in all processes, of the sum or else the mean of its losses."""
        self.losses.append(loss)
        self.hits.append((logits_NC.argmax(1) == labels_N).sum())
        self.sizes.append(size)
        self.weights.append(1 if summed else size)

    def losses_B(self) -> Tensor:
        """The mean loss of every batch, shape (batches,), float64."""
        sums_B = torch.stack(self.losses).cpu().double() * torch.tensor(self.weights)
        return distributed.total(sums_B, self.device, self.processes) / torch.tensor(self.sizes)

    def means(self) -> tuple[float, float]:
        """Loss and accuracy per image."""
        sizes_B = torch.tensor(self.sizes, dtype=torch.float64)
        hits = distributed.total(torch.stack(self.hits).sum().cpu(), self.device, self.processes).item()
        return (self.losses_B() @ sizes_B / sizes_B.sum()).item(), hits / sizes_B.sum().item()
