"""What a fit shows while it runs: a bar on a terminal, a line per epoch in a log."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lowrank_exp.text.terminal import Terminal

# Drawing costs milliseconds: at most five times a second.
SECONDS_BETWEEN_DRAWINGS = 0.2


class EpochProgress(pl.Callback):
    """Shows epoch, step, images per second and the last epoch's accuracy, on standard error.

    Args:
        label: what is being trained.
        console: where to; standard error where None.
        passing: the bar goes when the fit has ended.
    """

    def __init__(self, label: str, console: Console | None = None, passing: bool = False) -> None:
        self.label = label
        self.console = console or Terminal(stderr=True)
        self._drawn = self._began = 0.0
        self._images = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            auto_refresh=False,
            transient=passing,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, at the epoch the fit starts or goes on from."""
        if not self.console.is_terminal:
            return
        steps = trainer.num_training_batches
        self._task = self._bar.add_task(
            self.label,
            total=steps * trainer.max_epochs,
            completed=steps * trainer.current_epoch,
            note="",
        )
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count images."""
        self._began = time.perf_counter()
        self._images = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if the last drawing is long enough ago."""
        self._images += len(batch[1])
        now = time.perf_counter()
        if now - self._drawn < SECONDS_BETWEEN_DRAWINGS or not self._bar.live.is_started:
            return
        self._drawn = now
        self._draw(trainer, pl_module, batch_idx + 1, now)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the epoch's end, or print its line."""
        if self._bar.live.is_started:
            self._draw(trainer, pl_module, trainer.num_training_batches, time.perf_counter())
            return
        seconds = pl_module.history[-1]["seconds"]
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        rate = f"{self._images / seconds:,.0f} images/s"
        self.console.print(
            f"{self.label}  {epoch}  {_training(pl_module.history)}  {_validation(pl_module.history)}  "
            f"{rate}  {seconds:.1f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it stands, unless it is a passing one."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def _close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int, now: float) -> None:
        epoch = trainer.current_epoch
        rate = self._images / max(now - self._began, 1e-9)
        self._bar.update(
            self._task,
            description=f"{self.label}  epoch {epoch + 1}/{trainer.max_epochs}",
            completed=epoch * trainer.num_training_batches + step,
            note=f"{rate:,.0f} images/s  {_validation(pl_module.history)}",
            refresh=True,
        )


def _training(history: list[dict[str, float]]) -> str:
    """The last finished epoch's training.

    >>> _training([{"train_loss": 0.5, "train_accuracy": 0.81}])
    'loss 0.5000  train 81.00 %'
    """
    return f"loss {history[-1]['train_loss']:.4f}  train {100 * history[-1]['train_accuracy']:.2f} %"


def _validation(history: list[dict[str, float]]) -> str:
    """The last finished epoch's validation, nothing before the first.

    >>> _validation([{"val_accuracy": 0.7}])
    'val 70.00 %'
    """
    accuracy = history[-1]["val_accuracy"] if history else None
    return "" if accuracy is None else f"val {100 * accuracy:.2f} %"
