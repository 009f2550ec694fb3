"""Training a classifier: the LightningModule, and what it counts on the way.

N images of a batch, C classes.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Metrics = dict[str, float]

DIVERGED = (
    "{what} is {value} at epoch {epoch}, step {step} of {steps}, learning rate {rate:g}. "
    "Lower the learning rate, warm it up, or look for non-finite values in images and weights."
)


class Classifier(pl.LightningModule):
    """Cross-entropy training of a network, one optimizer step per batch.

    Optimization is manual (Lightning's word): zero_grad, forward, backward, step, schedule, written out
    below. It is what automatic optimization would do, for two thirds of what Lightning costs per step. Nothing is
    read back from the device within an epoch: losses and hits stay tensors until its end.

    Args:
        network: images (N, ...) to logits (N, C); passed in, not stored in hyper-parameters.
        optimizer: called with the network's trainable parameters.
        schedule: progress in [0, 1) to a factor on the base learning rate; None leaves the rate alone.
        total_steps: steps of the whole fit; progress is step / total_steps.
        label_smoothing: of the training loss, in [0, 1); the validation loss has none.
        channels_last: hand 4-D images to the network in that memory format.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[Parameter]], Optimizer],
        schedule: Callable[[float], float] | None,
        total_steps: int,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps
        self.label_smoothing = label_smoothing
        self.channels_last = channels_last
        self.history: list[Metrics] = []
        self.rates: list[float] = []
        self.trained = _Tally()
        self.validated = _Tally()
        self.began = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C)."""
        if self.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def on_train_start(self) -> None:
        """Take optimizer and schedule as they are, without Lightning's wrapper."""
        self._stepper = self.optimizers(use_pl_optimizer=False)
        self._scheduler = self.lr_schedulers()

    def on_train_epoch_start(self) -> None:
        """Start the clock and the counts."""
        self.began = time.perf_counter()
        self.rates = []
        self.trained = _Tally()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step: zero_grad, forward, backward, step, schedule."""
        images, labels = batch
        self._stepper.zero_grad()
        logits_NC = self.forward(images)
        loss = cross_entropy(logits_NC, labels, label_smoothing=self.label_smoothing)
        loss.backward()
        self.rates.append(self._stepper.param_groups[0]["lr"])
        self._stepper.step()
        if self._scheduler is not None:
            self._scheduler.step()
        self.trained.add(logits_NC.detach(), labels, loss.detach())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Without validation images the last batch ends the epoch."""
        if not self.trainer.enable_validation and batch_idx + 1 == self.trainer.num_training_batches:
            self._raise_if_diverged("the training loss", self.trained)
            self._write_history(None, None)

    def on_validation_epoch_start(self) -> None:
        """The epoch's training is over: refuse to go on if it diverged."""
        self._raise_if_diverged("the training loss", self.trained)
        self.validated = _Tally()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count loss and hits of a batch."""
        images, labels = batch
        logits_NC = self.forward(images)
        self.validated.add(logits_NC, labels, cross_entropy(logits_NC, labels))

    def on_validation_epoch_end(self) -> None:
        """Write the epoch's line of the history; callbacks find it there in `on_train_epoch_end`."""
        self._raise_if_diverged("the validation loss", self.validated)
        self._write_history(*self.validated.means())

    def _write_history(self, val_loss: float | None, val_accuracy: float | None) -> None:
        train_loss, train_accuracy = self.trained.means()
        self.history.append(
            {
                "epoch": self.current_epoch,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "learning_rate": self.rates[0],
                "seconds": time.perf_counter() - self.began,
            }
        )

    def configure_optimizers(self) -> Any:
        """The optimizer, and one LambdaLR step per batch.

        LambdaLR asks once more after the last step, for a rate that nothing uses; progress stays below 1
        there.
        """
        stepper = self.optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.schedule is None:
            return stepper
        schedule, total = self.schedule, self.total_steps
        scheduler = LambdaLR(stepper, lambda step: schedule(min(step, total - 1) / total))
        return {"optimizer": stepper, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _raise_if_diverged(self, what: str, tally: "_Tally") -> None:
        losses = tally.losses_B()
        bad = (~losses.isfinite()).nonzero()
        if len(bad) == 0:
            return
        index = int(bad[0])
        # Validation follows the last step of the epoch.
        step = index if tally is self.trained else len(self.rates) - 1
        raise FloatingPointError(
            DIVERGED.format(
                what=what,
                value=losses[index].item(),
                epoch=self.current_epoch,
                step=step,
                steps=len(self.rates),
                rate=self.rates[step],
            )
        )


class _Tally:
    """Losses and hits of batches, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []
        self.sizes: list[int] = []

    def add(self, logits_NC: Tensor, labels_N: Tensor, loss: Tensor) -> None:
        self.losses.append(loss)
        self.hits.append((logits_NC.argmax(1) == labels_N).sum())
        self.sizes.append(len(labels_N))

    def losses_B(self) -> Tensor:
        """The mean loss of every batch, shape (batches,), float64."""
        return torch.stack(self.losses).cpu().double()

    def means(self) -> tuple[float, float]:
        """Loss and accuracy per image."""
        sizes_B = torch.tensor(self.sizes, dtype=torch.float64)
        count = sizes_B.sum().item()
        loss = (self.losses_B() @ sizes_B).item() / count
        return loss, torch.stack(self.hits).sum().item() / count
