"""What the configuration of a job names: its data, its network, and its phases with the keys of their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from lowrank_exp import artifact
from lowrank_exp.decomposition import Decompositions
from lowrank_exp.edits import edits_of
from lowrank_exp.files.results import digest
from lowrank_exp.files.whole import file_digest
from lowrank_exp.job.dense import INITIAL, Dense, dense_costs, find_dense_phase
from lowrank_exp.job.exports import check_last, formats_named
from lowrank_exp.job.phase_keys import by_content, of_model
from lowrank_exp.job.preflight import check_processes, check_size
from lowrank_exp.job.walk import check_against, examples_of, make_phases, walk
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.models import ZeroShot, load_weights_, weights_file
from lowrank_exp.network.inputs import floating_type
from lowrank_exp.phases import Evaluate
from lowrank_exp.phases.phase import Phase
from lowrank_exp.training.generators import seed_all

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData


@dataclass(frozen=True)
class Step:
    """A phase of a method by its name, and the key of its outcome."""

    name: str
    phase: Phase
    key: str


class Parts:
    """The parts of one job. They are there once the whole method has been walked; nothing has been trained then.

    Attributes:
        data: set up.
        initial: the network that the first phase gets.
        edits: those that it came with, from its weights file.
        example: one image that the network takes.
        formats: of the files that the last network is exported to.
        learnt: whether it has the weights of a file, or a phase trains it.
        steps: the phases in order.
        dense: the network that figures are compared with.
        first: the measurement of the initial network, where it is the dense one and no phase measures it; else None.
    """

    def __init__(self, cfg: DictConfig, config: dict[str, Any], device: str, say: Callable[[str], None]) -> None:
        self.cfg, self.config = cfg, config
        self.formats = formats_named(cfg.export)
        # Weights files and plans name a decomposition of the user's own, which is known once its module is imported.
        try:
            Decompositions.of(instantiate(cfg.decomposition, _convert_="all"))
        except ValueError as error:
            raise ValueError(f"decomposition: {error}") from error
        target = str(cfg.model.get("_target_"))
        drawn = target.startswith("lowrank_exp.models.") and not target.endswith((".hub", ".clip"))  # one of our own
        if drawn:
            check_size(self.make_dense_network, target)
        self.initial = self.make_initial_network(say)
        self.edits = edits_of(self.initial)
        phases = make_phases(config["method"])
        check_processes({name: config["method"]["phases"][name] for name in phases}, device)
        shape, walked = self.initial.__dict__.get("input_shape"), None
        if drawn and shape is not None:  # what is wrong with the method is told before data are looked at
            walked = walk(self.initial, phases, [torch.zeros(1, *shape)], device)
        self.data = make_data(cfg)
        self.data.adapt(shape, floating_type(self.initial))
        self.data.setup()
        self._introduce_classes(device, say)
        self.learnt = cfg.model.get("weights") is not None or any(phase.trains for phase in phases.values())
        if not self.learnt:
            say("model.weights is null: unless its constructor loads weights, this network is untrained")
        walked = walked or walk(self.initial, phases, examples_of(self.data), device)
        check_against(walked, phases, self.data)
        self.example = walked.example
        check_last(walked.last, self.formats)
        known = cfg.model.get("weights") is not None or not drawn
        whole = self.make_dense_network() if self.edits else self.initial
        phase = find_dense_phase(phases, config["method"], known)
        self.dense = Dense(phase, dense_costs(whole, self.example), known, bool(self.edits))
        key, self.steps = self._make_steps(phases)
        own = digest([key, Evaluate.version])
        self.first = Step(INITIAL, Evaluate(), own) if self.dense.is_measured_first else None

    def make_dense_network(self) -> nn.Module:
        """The network as its constructor makes it, without weights from a file; seeded by the job's seed."""
        seed_all(self.cfg.seed)
        network = instantiate({key: value for key, value in self.config["model"].items() if key != "weights"})
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"model._target_={self.cfg.model.get('_target_')} makes a {type(network).__name__}, not an nn.Module"
            )
        return network

    def make_initial_network(self, say: Callable[[str], None] = lambda text: None) -> nn.Module:
        """The network that the first phase gets: with the weights of `model.weights`, dense or compressed."""
        network, weights = self.make_dense_network(), self.cfg.model.get("weights")
        if weights is None:
            return network
        if artifact.is_artifact(weights):
            network = artifact.load_into_(network, weights)
        elif taken := load_weights_(network, weights):
            say(taken)
        return network

    def load_network(self, path: Path) -> nn.Module:
        """The network of a file that a phase has left."""
        return artifact.load_into_(self.make_dense_network(), path).eval()

    def _introduce_classes(self, device: str, say: Callable[[str], None]) -> None:
        """Give a zero-shot network the names of the data's classes, and say if it knows pixels of another scale."""
        if not isinstance(self.initial, ZeroShot):
            return
        self.initial.classes_are_(self.data.classes, device, Path(self.cfg.paths.cache) / "clip", say)
        if (
            warning := self.initial.warn_of_other_pixels(self.cfg.data.get("mean"), self.cfg.data.get("std"))
        ) is not None:
            say(warning)

    def _make_steps(self, phases: dict[str, Phase]) -> tuple[str, list[Step]]:
        """The key of the initial network, and the phases with those of their outcomes: each chains to the one before
        it."""
        weights = self.config["model"].get("weights")
        # The tensors tell of what the configuration does not: a constructor whose code has changed.
        start = [
            of_model(self.config["model"]),
            file_digest(weights_file(self.initial, weights)) if weights else None,
            tensors_digest(self.initial),
        ]
        initial = key = digest([*start, self.data.digest, self.cfg.seed])
        steps = []
        for name, phase in phases.items():
            own = [phase.version, by_content(self.config["method"]["phases"][name])]
            key = digest([key, *own, *([found] if (found := phase.conditions()) else [])])
            steps.append(Step(name, phase, key))
        return initial, steps


def make_data(cfg: DictConfig) -> ImageData:
    """The data of a configuration, not set up yet."""
    from lowrank_exp.data import ImageData

    data = instantiate(cfg.data)
    if not isinstance(data, ImageData):
        raise ValueError(
            f"data._target_={cfg.data.get('_target_')} makes a {type(data).__name__}, which is not a "
            "lowrank_exp.data.ImageData: name a class that is, which gives LabelledImages by _load"
        )
    return data
