"""The root of the configuration, and what a `_target_` takes."""

from collections.abc import Mapping
from typing import Any

from lowrank_exp.command_line.keys import kinds as k
from lowrank_exp.command_line.keys import launchers, low_rank, networks, phases, pruning, training

_LOGGERS: dict[str, Mapping[str, k.Kind]] = {
    "lowrank_exp.job.loggers.csv": {},
    "lowrank_exp.job.loggers.tensorboard": {},
    "lowrank_exp.job.loggers.wandb": {
        "project": k.text,
        "mode": k.one_of("offline", "online", "disabled"),
        "entity": k.or_null(k.text),
        "name": k.or_null(k.text),
        "group": k.or_null(k.text),
    },
}

TARGETS: dict[str, Mapping[str, k.Kind]] = {
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
    **launchers.LAUNCHERS,
    "lowrank_exp.rank.at_width.ranks_at_width": low_rank.RANKS_AT_WIDTH,
}


def keys_of(node: Mapping[str, Any]) -> Mapping[str, k.Kind] | None:
    """What the keys of a node with a `_target_` may be; None where that is not ours to know."""
    target = node["_target_"]
    if target == "lowrank_exp.rank.allocate":
        return low_rank.of_allocate(node.get("policy", "knapsack"))
    return training.OPTIMIZER if target.startswith("torch.optim.") else TARGETS.get(target)


SWEEPER = k.Record(
    {
        "trials": k.whole(1),
        "objectives": k.some(k.one_of("val_accuracy", "macs", "weights", "parameters", "bytes", "latency_ms")),
        "sampler": k.one_of("tpe", "nsga2", "random"),
        "startup": k.whole(1),
        "seed": k.whole(0, 2**32 - 1),
        "pruner": k.or_null(k.one_of("median")),
        "rivals": k.whole(1),
        "warmup": k.whole(0),
        "batch": k.or_null(k.whole(1)),
        "storage": k.text,
        "file": k.or_null(k.text),
    }
)

_RECIPE = k.Record(training.RECIPE)

ROOT = k.Record(
    {
        "seed": k.whole(0, 2**32 - 1),
        "device": k.text,
        "devices": k.whole(1, 1024),
        "threads": k.or_null(k.whole(1, 1024)),
        "force_threads": k.boolean,
        "progress": k.boolean,
        "verbose": k.or_null(k.boolean),
        "stop_after": k.or_null(k.text),
        "dry_run": k.boolean,
        "debug": k.boolean,
        "tags": k.many(k.text),
        "evaluation": k.Record({"batch_size": k.whole(1)}),
        "latency": low_rank.LATENCY,
        "losses": k.Record({"images": k.whole(0), "alone": k.boolean}),
        "export": k.either(k.null, k.text, k.many(k.text)),
        "target": k.Record({"accuracy_drop": k.number(0, 1, below=True)}),
        "store": k.Record({"exact": k.boolean, "shared": k.or_null(k.boolean), "silent": k.number(1, 86_400)}),
        "paths": k.Record({"outputs": k.text, "store": k.text, "cache": k.text}),
        "data": k.Target(),
        "model": k.Target({"weights": networks.WEIGHTS}),
        "regularizer": k.Target(),
        "decomposition": low_rank.DECOMPOSITION,
        "rank": k.Target(),
        "pruning": k.Target(),
        "reconstruct": low_rank.RECONSTRUCT,
        "training": _RECIPE,
        "finetune": _RECIPE,
        "logger": k.Target(or_none=True),
        "launcher": k.Target(or_none=True),
        "sweeper": SWEEPER,
        "method": k.Record(  # last: what phases take from the keys above is told there
            {
                "order": k.many(k.text),
                "phases": k.named(k.Target(), "phase", phases.OURS),
                "dense": k.text,
                "full_rank": k.Target(),
                "export": k.either(k.null, k.text, k.many(k.text)),
                "controls": k.Record({"dense": k.text, "train": _RECIPE, "finetune": k.anything}),
                "then": k.many(k.text),
            },
            optional=("dense", "full_rank", "export", "controls", "then"),
        ),
    },
    optional=("sweeper",),  # a grid has no options
    off={
        "latency": "latency.seconds=0",
        "logger": "logger=none",
        "launcher": "launcher=serial",
        "regularizer": "regularizer=none",
        "reconstruct": "reconstruct=none",
    },
)
