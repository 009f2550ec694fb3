"""A job on an exported file: how good and how fast it is, executed by its own runtime. Nothing else is done to it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lowrank_exp.checks import is_whole
from lowrank_exp.export import inputs_of, open_exported, read_metadata
from lowrank_exp.export.form import Format
from lowrank_exp.export.formats import FORMATS
from lowrank_exp.files import confusion
from lowrank_exp.files.results import RESULT, PhaseResult, Result, digest
from lowrank_exp.files.whole import digest_once, file_digest
from lowrank_exp.job.console import Console
from lowrank_exp.job.dense import INITIAL
from lowrank_exp.job.exports import describe_data
from lowrank_exp.job.finished import read_finished
from lowrank_exp.job.loggers import Log
from lowrank_exp.job.parts import make_data
from lowrank_exp.job.preflight import check_folders
from lowrank_exp.job.scores import score
from lowrank_exp.job.timer import Timer, untimed
from lowrank_exp.job.unfinished import Place
from lowrank_exp.job.walk import make_phases
from lowrank_exp.machine.environment import describe_conditions, describe_environment
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.phases import Evaluate
from lowrank_exp.runtime import Prepared

TOLD = ("macs", "weights", "parameters")  # what a file says of its network
DEVICE = "cpu"


def is_executed_file(weights: str | None) -> bool:
    """Whether `model.weights` names a file of a format that a runtime executes as it is.

    >>> is_executed_file("small.onnx"), is_executed_file("model.pt")
    (True, False)
    """
    return weights is not None and _format(weights) is not None


def _format(weights: str) -> Format | None:
    suffix = Path(weights).suffix
    return next((form for form in FORMATS if form.runtime is not None and form.suffix == suffix), None)


class Executed(nn.Module):
    """A function of images as a network without weights."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class FileJob:
    """Accuracy and time of a file, with what it says of itself beside them.

    Raises:
        ValueError: the method does something else than measuring, the file is not of its format, or it and the data do
            not fit each other.
    """

    def __init__(
        self,
        cfg: DictConfig,
        config: dict[str, Any],
        folder: Path,
        labels: Mapping[str, str | None],
        console: Console,
        place: Place,
    ) -> None:
        self.cfg, self.config, self.folder, self.labels, self.console = cfg, config, folder, labels, console
        self.place, self.path = place, Path(cfg.model.weights)
        form = _format(cfg.model.weights)
        assert form is not None
        assert form.runtime is not None
        self.form, self.executes = form, form.runtime
        self._check_asked()
        self.timer = Timer(OmegaConf.merge(cfg.latency, {"runtime": self.executes}), DEVICE)
        self.metadata = read_metadata(self.path)
        self.data = make_data(cfg)
        batch, shape = self._read_input()
        self.data.adapt(shape)
        self.data.setup()
        self.run_file = open_exported(self.path)
        self.example = torch.zeros(1, *self.data.input_shape)
        self._check_classes(self.example.repeat(batch or 1, 1, 1, 1))
        files = [self.path, *(self.path.with_suffix(suffix) for suffix in form.beside)]
        self.bytes = sum(file.stat().st_size for file in files)
        self.key = digest([[file_digest(file) for file in files], self.data.digest])

    def run(self, identity: Mapping[str, Any]) -> Result:
        """Measure, or read what was measured."""
        if (finished := self.read_finished(identity["fingerprint"])) is not None:
            self.console.finished()
            return finished
        check_folders({"paths.outputs": self.folder})
        log = Log.of_job(self.cfg, self.config, self.folder, self.labels, identity["fingerprint"], self.console.say)
        failed = True
        try:
            phases = [self.measure(name) for name in self.config["method"]["order"]]
            for phase in phases:
                log.phase(phase)
                self.console.row(phase)
            log.classes(phases)
            unknown = PhaseResult(INITIAL, warnings=["an exported file does not tell what it was made from"])
            place = describe_environment(DEVICE)
            result = Result("ok", **identity, phases=phases, environment=place, dense=unknown)
            log.end(result)
            failed = False
        finally:
            log.finish(failed)
        counts = [confusion.path_in(self.folder, phase.name) for phase in phases]
        files = {path.relative_to(self.folder).as_posix(): digest_once(path) for path in counts if path.is_file()}
        result = replace(result, warnings=log.warnings, files=files)
        result.write(self.folder / RESULT)
        return result

    def dry_run(self, expected: str) -> None:
        """What would be measured."""
        if self.read_finished(expected) is not None:
            self.console.say("finished already; nothing would be run again")
        self.console.say(f"accuracy of {self.path} by {self.executes} on {self.data.sizes['test']:,} test images")
        if self.timer.seconds:
            self.console.say(f"latency: {self.timer}")

    def read_finished(self, expected: str) -> Result | None:
        """The job's result, if it was of this file and these data, and of a time as it would be measured now."""
        steps = [(name, self.key) for name in self.config["method"]["order"]]
        result = read_finished(self.folder, expected, steps, None, self.console.say)
        return result if result is not None and self.timer.has_timed(result, self.config["latency"]) else None

    def measure(self, name: str) -> PhaseResult:
        """The figures of the file, as those of a phase of that name."""
        self.place.phase(name, Evaluate())
        seconds, counts = stopwatch(), confusion.path_in(self.folder, name)
        scored = score(Executed(self.run_file), self.data, self.cfg.evaluation.batch_size, DEVICE, counts)
        timed = self.timer.time_by(self._prepare, self.example)
        told = {what: self.metadata[what] for what in TOLD if is_whole(self.metadata.get(what), 0)}
        source = [f"{', '.join(told)}: as the file says of itself"] if told else []
        return PhaseResult(
            name,
            **scored.scores,
            **told,
            **timed,
            bytes=self.bytes,
            seconds=seconds(),
            key=self.key,
            warnings=[*scored.warnings, *source, *self._warn_of_other_data(), *untimed(timed["latency"])],
            conditions=describe_conditions(DEVICE),
        )

    def _prepare(self, images: Tensor) -> Prepared:
        runtime: Any = self.timer.runtime  # the file's own, which takes files
        return runtime.prepare_onnx(str(self.path), images)

    def _check_asked(self) -> None:
        """Raise ValueError for what cannot be done to a file."""
        what = f"model.weights={self.path} is a file of format {self.form.name}, whose layers are not at hand"
        for name, phase in make_phases(self.config["method"]).items():
            if not isinstance(phase, Evaluate):
                raise ValueError(
                    f"{what}: phase {name} ({type(phase).__name__}) cannot be run on it. method=evaluate measures it; "
                    "to change it, take the network's own file, model.pt"
                )
        if self.cfg.export:
            raise ValueError(f"{what}: it cannot be exported again. Leave export=null")
        if self.cfg.stop_after is not None:
            raise ValueError(f"{what}: no other job takes a phase of it over. Leave stop_after=null")
        if self.cfg.latency.runtime not in (None, self.executes):
            raise ValueError(
                f"{what}: it is executed by {self.executes}, not by latency.runtime={self.cfg.latency.runtime}. Leave "
                "it null"
            )
        if self.cfg.device not in ("auto", DEVICE):
            raise ValueError(f"{what}: it is executed on the processor. Leave device={self.cfg.device} out")

    def _read_input(self) -> tuple[int | None, tuple[int, int, int] | None]:
        """How many images the file takes at a time, and their (C, H, W); None where that is free."""
        shapes = inputs_of(self.path)
        if len(shapes) != 1 or len(shapes[0]) != 4:
            raise ValueError(f"{self.path} takes inputs of the shapes {shapes}: images are one input, (N, C, H, W)")
        batch, channels, height, width = shapes[0]
        asked = {"evaluation": [self.cfg.evaluation.batch_size], "latency": self.timer.batch_sizes}
        for group, sizes in asked.items():
            if batch is not None and sizes != [batch]:
                raise ValueError(f"{self.path} takes {batch} images at a time alone: set {group}.batch_size={batch}")
        return batch, None if None in (channels, height, width) else (channels, height, width)

    def _check_classes(self, images: Tensor) -> None:
        """Raise ValueError unless the file gives logits for the classes of the data."""
        try:
            logits = self.run_file(images)
        except Exception as error:  # of each runtime's own kinds
            raise ValueError(f"{self.path} does not take images {tuple(images.shape)}: {error!s:.300}") from error
        if logits.dim() != 2 or logits.shape[1] < self.data.num_classes:
            raise ValueError(
                f"{self.path} gives {tuple(logits.shape)} for {len(images)} images, the data have "
                f"{self.data.num_classes} classes: it must give (N, classes) logits. Choose data that it knows"
            )

    def _warn_of_other_data(self) -> list[str]:
        """What the file says of its inputs and outputs and is otherwise in the data."""
        here = describe_data(self.data)
        return [
            f"the file says {name} {self.metadata[name]}, the data have {value}"
            for name, value in here.items()
            if self.metadata.get(name, value) != value
        ]
