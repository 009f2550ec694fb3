"""The keys of stored phases: what decides their numbers, chained from one phase to the next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrank_exp.files.whole import file_digest

LATER = ("stochastic_depth", "quant_noise", "distill")  # options of phases that outcomes stored before them do not have

# Classes that have moved since outcomes of theirs were first stored: the keys, and with them the seeds, stay.
FORMER_HOMES = {
    "lowrank_exp.phases.Agree": "lowrank_exp.agreement_phase.Agree",
    "lowrank_exp.phases.LearningCompression": "lowrank_exp.learning_compression.LearningCompression",
    "lowrank_exp.phases.Prune": "lowrank_exp.pruning_phases.Prune",
    "lowrank_exp.phases.Remove": "lowrank_exp.pruning_phases.Remove",
    "lowrank_exp.phases.Rewind": "lowrank_exp.rewind_phase.Rewind",
    "lowrank_exp.phases.ToSVD": "lowrank_exp.svd_phases.ToSVD",
    "lowrank_exp.phases.TrainOn": "lowrank_exp.settled_phases.TrainOn",
    "lowrank_exp.phases.TrainUntilSettled": "lowrank_exp.settled_phases.TrainUntilSettled",
    "lowrank_exp.phases.Truncate": "lowrank_exp.svd_phases.Truncate",
    "lowrank_exp.pruning.schedules.Iterative": "lowrank_exp.pruning.schedules.Molchanov",
}

# Options that have another name since: by class, their names in the keys.
FORMER_OPTIONS = {
    "lowrank_exp.pruning.schedules.AGP": {"share": "s_f", "share_at_first": "s_i"},
    "lowrank_exp.pruning.schedules.OneShot": {"share": "rate"},
    "lowrank_exp.pruning.schedules.RePr": {"share": "p"},
    "lowrank_exp.pruning.schedules.SFP": {"share": "P"},
}

# Options that outcomes stored before them do not have, by class, each with the value at which it changes nothing: left
# out where it has that.
LATER_OPTIONS: dict[str, dict[str, Any]] = {
    "lowrank_exp.decomposition.CP": {"solver": "ours"},
    "lowrank_exp.decomposition.TensorTrain": {"solver": "ours"},
    "lowrank_exp.decomposition.Tucker2": {"solver": "ours"},
    "lowrank_exp.phases.Recalibrate": {"augment": False, "judged_on": None},
    "lowrank_exp.pruning.schedules.Iterative": {"latency": None},
    "lowrank_exp.rank.allocate": dict.fromkeys(("latency", "latency_ms", "metric", "shuffle"))
    | {"resolve": False, "round": "up"},
}

# Parts of a training, whose `_target_` may be left out.
PARTS = {f"lowrank_exp.training.{name}" for name in ("Distillation", "QuantNoise", "StochasticDepth")}

WIDTH_LATER = {f"lowrank_exp.models.{name}" for name in ("cifar_resnet", "lenet5", "lenet_300_100")}


def of_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A network's configuration without its weights, whose content counts, and without what earlier outcomes lack.

    >>> of_model({"_target_": "lowrank_exp.models.lenet5", "width": 1.0, "num_classes": 10, "weights": None})
    {'_target_': 'lowrank_exp.models.lenet5', 'num_classes': 10}
    """
    left_out = {"weights"}
    if model.get("_target_") in WIDTH_LATER and model.get("width") == 1.0:
        left_out.add("width")
    return {name: value for name, value in model.items() if name not in left_out}


def by_content(phase: Mapping[str, Any]) -> dict[str, Any]:
    """A phase's configuration with digests for the files that it names, at any depth, and without `LATER` where null.

    A file is named by `ranks`, which are given as such or by a plan file, and by any other string that has the suffix
    of a file and is the path of one.
    """
    return _by_content({name: value for name, value in phase.items() if name not in LATER or value is not None})


def _by_content(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        former = FORMER_OPTIONS.get(str(value.get("_target_")), {})
        kept = {name: item for name, item in value.items() if not _may_be_left_out(name, item)}
        later = LATER_OPTIONS.get(str(value.get("_target_")), {})
        kept = {name: item for name, item in kept.items() if name not in later or item != later[name]}
        return {former.get(name, name): _by_content(item, str(name)) for name, item in kept.items()}
    if key == "_target_":
        return FORMER_HOMES.get(value, value)
    if isinstance(value, list | tuple):
        return [_by_content(item, key) for item in value]
    if isinstance(value, str) and not key.startswith("_") and (key == "ranks" or _is_file(value)):
        return file_digest(value)
    return value


def _may_be_left_out(key: str, value: Any) -> bool:
    """Whether outcomes stored earlier were without it, and it changes nothing."""
    return (key == "_target_" and value in PARTS) or (key == "otherwise" and value == "refuse")


def _is_file(text: str) -> bool:
    try:
        return bool(Path(text).suffix) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with characters that none has
        return False
