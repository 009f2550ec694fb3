"""Records of single jobs: phases, layers, curves, where and by which command they ran."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from lowrank_exp.checks import all_finite
from lowrank_exp.files.layer_words import LOST
from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.report.command_of import command_of
from lowrank_exp.report.html.pool import Pool, columns, short, shorts
from lowrank_exp.report.table import reason

COSTS = ("macs", "weights", "parameters", "bytes", "latency_ms", "seconds")
SCORES = ("accuracy", "val_accuracy", "top5", "loss")
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate")
MOST_EPOCHS = 60  # of a curve that are drawn
PLACES = ("commit", "date", "machine", "device", "threads")


def job_record(job: Result, pool: Pool) -> dict[str, Any]:
    """One job: its seed, how it ended, and what its phases and layers are."""
    return {
        "seed": job.seed,
        "status": job.status,
        "fingerprint": job.fingerprint,
        "folder": "" if job.folder is None else str(job.folder),
        "command": command_of(job),
        "last": reason(job.error) if job.error else "",
        "told": job.told(),
        "phases": [phase_record(phase) for phase in job.phases],
        "dense": None if job.dense is None else phase_record(job.dense),
        "layers": pool.place_of(layer_columns(job.layers)),
        "costs": pool.place_of(_costs_of_layers(job.layers)),
        "curves": [[phase.name, pool.place_of(curve_of(phase))] for phase in job.phases if phase.history],
        "place": pool.place_of(_place(job)),
    }


def phase_record(phase: PhaseResult) -> dict[str, Any]:
    """The figures of a phase that were measured."""
    known = {name: short(getattr(phase, name)) for name in (*SCORES, *COSTS)}
    figures = {name: short(value) for name, value in phase.values.items()}
    record = {"name": phase.name, **{name: value for name, value in known.items() if value is not None}}
    return record | ({"values": figures} if figures else {}) | ({"stored": True} if phase.stored else {})


def layer_columns(layers: Sequence[LayerResult]) -> dict[str, list[Any]]:
    """What became of every layer, a list for each of its properties."""
    records = [vars(layer) for layer in layers]
    words = {name: [record[name] for record in records] for name in ("decomposition", "rank", "reason")}
    return words | columns(records, ("macs_after", "weights_after", "channels_after", *LOST))


def curve_of(phase: PhaseResult) -> dict[str, list[Any]]:
    """Losses, accuracies and learning rate by epoch; of many epochs every k-th and the last."""
    every = -(-len(phase.history) // MOST_EPOCHS) or 1
    last = len(phase.history) - 1
    places = [k for k in range(len(phase.history)) if k % every == every - 1 or k == last]
    chosen: list[Mapping[str, Any]] = [phase.history[k] for k in places]
    return {"epoch": [k + 1 for k in places], **columns(chosen, CURVES)}


def _costs_of_layers(layers: Sequence[LayerResult]) -> dict[str, Any]:
    """What is the same in every job of a network: names and costs of the dense layers, full ranks, spectra."""
    return {
        "name": [layer.name for layer in layers],
        "macs_before": shorts([layer.macs_before for layer in layers]),
        "weights_before": shorts([layer.weights_before for layer in layers]),
        "channels_before": shorts([layer.channels_before for layer in layers]),
        "full_rank": [layer.full_rank for layer in layers],
        "spectrum": [_as_spectrum(layer.spectrum) for layer in layers],
    }


def _as_spectrum(spectrum: list | None) -> list | None:
    """Curves of pairs of numbers; None for what is none."""
    for pairs in spectrum or ():
        if not isinstance(pairs, list) or {*map(type, pairs)} != {list} or {*map(len, pairs)} != {2}:
            return None
        if not all_finite([*chain.from_iterable(pairs)]):
            return None
    return spectrum or None


def _place(job: Result) -> dict[str, Any]:
    """Where it ran, and on which versions."""
    known = {name: str(job.environment[name]) for name in PLACES if job.environment.get(name) is not None}
    versions = job.environment.get("versions")
    return known | {"versions": {k: str(v) for k, v in versions.items()} if isinstance(versions, Mapping) else {}}
