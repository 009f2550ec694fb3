"""Where curves and figures go: wandb (offline by default, no login), CSV, TensorBoard, or nowhere.

Each function opens one run for one job; Hydra names them in `conf/logger/`. What a killed run of the same job left
behind in its folder is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lowrank_exp.checks import is_number
from lowrank_exp.files.results import LayerResult, PhaseResult, Result, deciding, digest, seedless
from lowrank_exp.files.wandb_run import MODES, open_run

if TYPE_CHECKING:  # Lightning takes seconds
    from pytorch_lightning.loggers import Logger


@dataclass(frozen=True)
class Identity:
    """Whose run it is.

    `name` is the group's with the seed behind it; `group` is the configuration without its seed, so that what wandb
    groups by it are the seeds of one configuration; `kind` is the method; `tags` say what may be looked for.
    """

    folder: Path
    fingerprint: str
    name: str
    group: str | None
    tags: Sequence[str]
    config: Mapping[str, Any]
    kind: str | None = None


def group_of(config: Mapping[str, Any], labels: Mapping[str, str | None]) -> str:
    """What the runs of all seeds of a configuration are grouped by: its row, or its method, and the hash of the rest.

    The hash is that of reports, so their rows are found by it.
    """
    words = [labels[name] for name in ("experiment", "row")] if labels["row"] else [labels["method"]]
    return f"{'/'.join(str(word) for word in words if word)}-{digest(seedless(deciding(config)))[:6]}"


def wandb(
    identity: Identity,
    project: str,
    mode: str = "offline",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
) -> Logger:
    """One wandb run, its id the job's fingerprint, its group the configuration without the seed.

    Args:
        identity: of the job.
        project: the wandb project.
        mode: `offline` (no login; `wandb sync` sends it later), `online` or `disabled`.
        entity: user or team; None is wandb's default.
        name: of the run, in the place of that of the job.
        group: of the run, in the place of that of the job.
    """
    if mode not in MODES:
        raise ValueError(f"logger.mode={mode!r} is not known: offline, online or disabled")
    run = open_run(
        identity.folder,
        identity.fingerprint,
        project=project,
        mode=mode,
        name=name or identity.name,
        kind=identity.kind,
        tags=identity.tags,
        config=identity.config,
        entity=entity,
        group=group or identity.group,
    )
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(experiment=run)


def csv(identity: Identity) -> Logger:
    """`metrics.csv` in the job's folder."""
    from lowrank_exp.job.plain_csv import PlainCSVLogger

    return _fresh(PlainCSVLogger, identity, "csv")


def tensorboard(identity: Identity) -> Logger:
    """TensorBoard events in the job's folder."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return _fresh(TensorBoardLogger, identity, "tensorboard")


def _fresh(kind: type[Logger], identity: Identity, name: str) -> Logger:
    shutil.rmtree(identity.folder / name, ignore_errors=True)
    logger = kind(save_dir=identity.folder, name="", version=name)
    logger.log_hyperparams(dict(identity.config))
    return logger


def _unless_it_fails(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Log` that does nothing without a logger, and gives a logger up that fails: the job goes on."""

    @functools.wraps(method)
    def guarded(self: Log, *arguments: Any, **named: Any) -> None:
        if self.logger is None:
            return
        try:
            method(self, *arguments, **named)
        except Exception as error:
            self.give_up(error)

    return guarded


class Log:
    """One job's log over any of the loggers, or none; steps count epochs over all phases.

    A logger that fails is told once, in `warnings` too, and the job goes on without it.
    """

    def __init__(self, logger: Logger | None, say: Callable[[str], None] = print) -> None:
        self.logger: Any = logger  # the methods below do nothing where it is None
        self.say = say
        self.step = 0
        self.warnings: list[str] = []

    @classmethod
    def open(cls, open_: Callable[[], Logger] | None, say: Callable[[str], None]) -> Log:
        """The log over the logger that `open_` gives.

        Raises:
            ValueError: an option of the logger that is not known.
        """
        log = cls(None, say)
        try:
            log.logger = None if open_ is None else open_()
        except ValueError:
            raise
        except Exception as error:
            log.give_up(error)
        return log

    @classmethod
    def of_job(
        cls,
        cfg: DictConfig,
        config: Mapping[str, Any],
        folder: Path,
        labels: Mapping[str, str | None],
        fingerprint: str,
        say: Callable[[str], None],
    ) -> Log:
        """The log of a job over the logger of its configuration; over none for `logger=none`."""
        if not cfg.logger.get("_target_"):
            return cls.open(None, say)
        group = group_of(config, labels)
        tags = dict.fromkeys(str(tag) for tag in (*cfg.tags, *labels.values()) if tag)
        identity = Identity(folder, fingerprint, f"{group}-s{cfg.seed}", group, list(tags), config, labels["method"])
        return cls.open(functools.partial(instantiate(cfg.logger), identity), say)

    def give_up(self, error: Exception) -> None:
        """Go on without the logger."""
        logger, self.logger = self.logger, None
        words = " ".join(str(error).split())[:300]
        line = f"the logger has failed, nothing more is logged ({type(error).__name__}: {words})"
        self.warnings.append(line)
        self.say(f"warning: {line}")
        with contextlib.suppress(Exception):
            _close(logger, failed=True)

    def epoch(self, phase: str, metrics: Mapping[str, float]) -> None:
        """One epoch's metrics, under the phase's name."""
        self.step += 1
        self._metrics({f"{phase}/{key}": value for key, value in metrics.items() if value is not None})

    @_unless_it_fails
    def _metrics(self, values: Mapping[str, float]) -> None:
        self.logger.log_metrics(values, step=self.step)

    @_unless_it_fails
    def phase(self, result: PhaseResult) -> None:
        """One phase's figures: in wandb the summary, elsewhere one more record."""
        figures = asdict(result) | result.values
        numbers = {k: v for k, v in figures.items() if is_number(v)}
        values = {f"{result.name}.{k}": v for k, v in numbers.items()}
        if _is(self.logger, "WandbLogger"):
            self.logger.experiment.summary.update(values)
        else:
            self.logger.log_metrics(values, step=self.step)

    @_unless_it_fails
    def end(self, result: Result) -> None:
        """How the job ended: beside its dense network; status and warnings in words, or, where a logger takes none,
        how many they are."""
        warnings = result.told()
        dense = {k: v for k, v in asdict(result.dense).items() if is_number(v)} if result.dense else {}
        figures = {f"dense.{k}": v for k, v in dense.items()} | result.beside_dense()
        if _is(self.logger, "WandbLogger"):
            run = self.logger.experiment
            run.summary.update({**figures, "status": result.status, "warnings": "\n".join(warnings)})
            run.tags = (
                *run.tags,
                *([result.status] if result.status != "ok" else []),
                *(["warnings"] if warnings else []),
            )
            return
        numbers = {**figures, "missed": float(result.status == "missed"), "warnings": float(len(warnings))}
        self.logger.log_metrics(numbers, step=self.step)
        if _is(self.logger, "TensorBoardLogger"):
            self.logger.experiment.add_text("warnings", "\n\n".join(warnings), self.step)

    @_unless_it_fails
    def pruned(self) -> None:
        """The job is ended early by the search that chose it."""
        if _is(self.logger, "WandbLogger"):
            run = self.logger.experiment
            run.summary.update({"status": "pruned"})
            run.tags = (*run.tags, "pruned")
        else:
            self.logger.log_metrics({"pruned": 1.0}, step=self.step)

    @_unless_it_fails
    def layers(self, layers: Sequence[LayerResult]) -> None:
        """The table of layers, where the logger has tables."""
        if _is(self.logger, "WandbLogger") and layers:
            import wandb as client

            names = [name for name in asdict(layers[0]) if name != "spectrum"]  # a curve is not a cell
            cells = [[getattr(layer, name) for name in names] for layer in layers]
            rows = [[str(value) if isinstance(value, list) else value for value in row] for row in cells]
            self.logger.experiment.log({"layers": client.Table(columns=names, data=rows)})

    @_unless_it_fails
    def classes(self, phases: Sequence[PhaseResult]) -> None:
        """The table of accuracies by class, a column per phase, where the logger has tables."""
        measured = [phase for phase in phases if phase.class_accuracy]
        if _is(self.logger, "WandbLogger") and measured:
            import wandb as client

            columns = ["class", *(phase.name for phase in measured)]
            rows = [[name, *(p.class_accuracy[name] for p in measured)] for name in measured[0].class_accuracy]
            self.logger.experiment.log({"classes": client.Table(columns=columns, data=rows)})

    @_unless_it_fails
    def finish(self, failed: bool) -> None:
        """Close the run, in every outcome."""
        _close(self.logger, failed)


def _is(logger: Logger, kind: str) -> bool:
    """Whether it is a logger of Lightning's of that name."""
    from pytorch_lightning import loggers

    return isinstance(logger, getattr(loggers, kind))


def _close(logger: Logger | None, failed: bool) -> None:
    if logger is None:
        return
    logger.finalize("failed" if failed else "success")
    if _is(logger, "WandbLogger"):
        logger.experiment.finish(exit_code=int(failed))
