"""Keys of phases."""

from lowrank_exp.command_line.keys import kinds as k
from lowrank_exp.command_line.keys.low_rank import DECOMPOSITION, LATENCY, MEASURE, RECONSTRUCT
from lowrank_exp.command_line.keys.networks import SEEDS
from lowrank_exp.command_line.keys.training import NAMES, TRAIN

# Phases of our methods. What a scale or an experiment sets of one that the method at hand does not have is not used.
OURS = (
    *(
        "train",
        "factorize",
        "recalibrate",
        "finetune",
        "evaluate",
        "recompose",
        "warmup",
        "to_svd",
        "sparse",
        "truncate",
    ),
    *("until_settled", "train_on", "lc", "prune", "remove", "rewind", "agree", "fastest", "probe", "probe_compressed"),
)

_IMAGES = k.whole(1, 10**8)
_CONTROL: dict[str, k.Kind] = {"train": k.Target(), "seed": k.whole(0, SEEDS), "epochs": k.or_null(k.whole(1))}
_WANTED = k.either(k.whole(1), k.number(0, 1, above=True))

PHASES: dict[str, dict[str, k.Kind]] = {
    "lowrank_exp.phases.Train": TRAIN,
    "lowrank_exp.phases.Factorize": {
        "decomposition": DECOMPOSITION,
        "rank": k.Target(),
        "measure": MEASURE,
        "reconstruct": RECONSTRUCT,
        "latency": LATENCY,
    },
    "lowrank_exp.phases.Recompose": {"layers": k.many(k.text)},
    "lowrank_exp.phases.Recalibrate": {
        "max_images": k.whole(2, 10**8),
        "batch_size": k.whole(1),
        "augment": k.boolean,
        "judged_on": k.or_null(_IMAGES),
    },
    "lowrank_exp.phases.Evaluate": {},
    "lowrank_exp.phases.Fastest": {
        "factorize": k.Target(),
        "recalibrate": k.Target(),
        "latency": LATENCY,
        "accuracy_drop": k.number(0, 1, below=True),
        "lowest": k.number(0, 1, above=True),
        "resolution": k.number(0, 1, above=True),
        "seconds": k.number(0, 3600, above=True),
    },
    "lowrank_exp.phases.ToSVD": {
        "decomposition": DECOMPOSITION,
        "rank": k.either(_WANTED, k.or_null(k.named(k.or_null(_WANTED), "layer"))),
        "layers": NAMES,
    },
    "lowrank_exp.phases.Truncate": {
        "energy": k.or_null(k.number(0, 1, below=True)),
        "threshold": k.or_null(k.number()),
        "rank": k.or_null(k.Target()),
        "by": k.one_of("resvd", "by_s"),
        "empty": k.one_of("keep_one", "refuse"),
        "costly": k.one_of("dense", "truncate"),
    },
    "lowrank_exp.phases.TrainUntilSettled": {
        "train": k.Target(),
        "factorize": k.Target(),
        "window": k.whole(2, 10_000),
        "threshold": k.number(),
        "latest": k.number(0, 1, above=True),
    },
    "lowrank_exp.phases.TrainOn": {"train": k.Target(), "regularizer": k.or_null(k.Target()), "exempt": k.many(k.text)},
    "lowrank_exp.phases.LearningCompression": {
        "train": k.Target(),
        "epochs": k.whole(1),
        "steps": k.whole(1, 10_000),
        "mu": k.number(above=True),
        "growth": k.number(1),
        "multipliers": k.boolean,
        "decomposition": DECOMPOSITION,
        "rank": k.Target(),
    },
    "lowrank_exp.phases.Prune": {
        "train": k.Target(),
        "schedule": k.Target(),
        "layers": NAMES,
        "ignored": k.many(k.text),
        "images": _IMAGES,
        "batch_size": k.whole(1),
        "latency": LATENCY,
    },
    "lowrank_exp.phases.DenseTrainedOn": _CONTROL | {"dense": k.text},
    "lowrank_exp.phases.FromScratch": _CONTROL,
    "lowrank_exp.phases.DenseByWidth": _CONTROL,
    "lowrank_exp.phases.Remove": {"prune": k.Target()},
    "lowrank_exp.phases.Rewind": {
        "train": k.Target(),
        "phase": k.text,
        "at": k.number(0, 1, below=True),
        "weights": k.boolean,
    },
    "lowrank_exp.phases.LinearProbe": {
        "features": k.text,
        "C": k.many(k.number(0, 1e9, above=True)),
        "images": _IMAGES,
        "iterations": k.whole(1),
        "batch_size": k.whole(1),
        "seed": k.whole(0, SEEDS),
    },
    "lowrank_exp.phases.Agree": {
        "criteria": k.named(k.Target(), "criterion"),
        "layers": k.either(k.text, NAMES),
        "images": _IMAGES,
        "seed": k.whole(0, SEEDS),
        "batch_size": k.whole(1),
        "score_on": k.one_of("val", "train"),
        "absolute": k.boolean,
        "at": k.one_of("relu", "layer"),
    },
}
