"""The root of the configuration, and what a `_target_` takes."""

from collections.abc import Mapping
from typing import Any

from lowrank_exp.command_line.keys import low_rank, networks, phases, pruning, training
from lowrank_exp.command_line.keys.kinds import (
    Kind,
    Record,
    Target,
    boolean,
    many,
    named,
    number,
    one_of,
    or_null,
    text,
    whole,
)

_LOGGERS: dict[str, Mapping[str, Kind]] = {
    "lowrank_exp.job.loggers.csv": {},
    "lowrank_exp.job.loggers.tensorboard": {},
    "lowrank_exp.job.loggers.wandb": {
        "project": text,
        "mode": one_of("offline", "online", "disabled"),
        "entity": or_null(text),
    },
}

TARGETS: dict[str, Mapping[str, Kind]] = {
    **networks.DATA,
    **networks.MODELS,
    **training.PARTS,
    **training.SCHEDULES,
    **training.REGULARIZERS,
    **low_rank.DECOMPOSITIONS,
    **pruning.SCHEDULES,
    **pruning.CRITERIA,
    **phases.PHASES,
    **_LOGGERS,
    "lowrank_exp.rank.at_width.ranks_at_width": low_rank.RANKS_AT_WIDTH,
}


def keys_of(node: Mapping[str, Any]) -> Mapping[str, Kind] | None:
    """What the keys of a node with a `_target_` may be; None where that is not ours to know."""
    target = node["_target_"]
    if target == "lowrank_exp.rank.allocate":
        return low_rank.of_allocate(node.get("policy", "knapsack"))
    return training.OPTIMIZER if target.startswith("torch.optim.") else TARGETS.get(target)


_RECIPE = Record(training.RECIPE)

ROOT = Record(
    {
        "seed": whole(0, 2**32 - 1),
        "device": text,
        "devices": whole(1, 1024),
        "threads": or_null(whole(1, 1024)),
        "force_threads": boolean,
        "progress": boolean,
        "dry_run": boolean,
        "debug": boolean,
        "tags": many(text),
        "evaluation": Record({"batch_size": whole(1)}),
        "latency": Record({"batch_size": whole(1, 10_000), "seconds": number(0, 3600)}),
        "store": Record({"exact": boolean}),
        "paths": Record({"outputs": text, "store": text, "cache": text}),
        "data": Target(),
        "model": Target({"weights": networks.WEIGHTS}),
        "regularizer": Target(),
        "decomposition": low_rank.DECOMPOSITION,
        "rank": Target(),
        "pruning": Target(),
        "reconstruct": low_rank.RECONSTRUCT,
        "training": _RECIPE,
        "finetune": _RECIPE,
        "logger": Target(or_none=True),
        "method": Record(  # last: what phases take from the keys above is told there
            {
                "order": many(text),
                "phases": named(Target(), "phase", phases.OURS),
                "dense": text,
                "full_rank": Target(),
            },
            optional=("dense", "full_rank"),
        ),
    },
    off={
        "latency": "latency.seconds=0",
        "logger": "logger=none",
        "regularizer": "regularizer=none",
        "reconstruct": "reconstruct=none",
    },
)
