"""Keys of phases."""

from lowrank_exp.command_line.keys.kinds import (
    Kind,
    Target,
    boolean,
    either,
    many,
    named,
    number,
    one_of,
    or_null,
    text,
    whole,
)
from lowrank_exp.command_line.keys.low_rank import DECOMPOSITION, MEASURE, RECONSTRUCT
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
    *("until_settled", "train_on", "lc", "prune", "remove", "rewind", "agree"),
)

_IMAGES = whole(1, 10**8)
_WANTED = either(whole(1), number(0, 1, above=True))

PHASES: dict[str, dict[str, Kind]] = {
    "lowrank_exp.phases.Train": TRAIN,
    "lowrank_exp.phases.Factorize": {
        "decomposition": DECOMPOSITION,
        "rank": Target(),
        "measure": MEASURE,
        "reconstruct": RECONSTRUCT,
    },
    "lowrank_exp.phases.Recompose": {"layers": many(text)},
    "lowrank_exp.phases.Recalibrate": {"max_images": whole(2, 10**8), "batch_size": whole(1)},
    "lowrank_exp.phases.Evaluate": {},
    "lowrank_exp.phases.ToSVD": {
        "decomposition": DECOMPOSITION,
        "rank": either(_WANTED, or_null(named(or_null(_WANTED), "layer"))),
        "layers": NAMES,
    },
    "lowrank_exp.phases.Truncate": {
        "energy": or_null(number(0, 1, below=True)),
        "threshold": or_null(number()),
        "rank": or_null(Target()),
        "by": one_of("resvd", "by_s"),
        "empty": one_of("keep_one", "refuse"),
        "costly": one_of("dense", "truncate"),
    },
    "lowrank_exp.phases.TrainUntilSettled": {
        "train": Target(),
        "factorize": Target(),
        "window": whole(2, 10_000),
        "threshold": number(),
        "latest": number(0, 1, above=True),
    },
    "lowrank_exp.phases.TrainOn": {"train": Target(), "regularizer": or_null(Target()), "exempt": many(text)},
    "lowrank_exp.phases.LearningCompression": {
        "train": Target(),
        "epochs": whole(1),
        "steps": whole(1, 10_000),
        "mu": number(above=True),
        "growth": number(1),
        "multipliers": boolean,
        "decomposition": DECOMPOSITION,
        "rank": Target(),
    },
    "lowrank_exp.phases.Prune": {
        "train": Target(),
        "schedule": Target(),
        "layers": NAMES,
        "ignored": many(text),
        "images": _IMAGES,
        "batch_size": whole(1),
    },
    "lowrank_exp.phases.Remove": {"prune": Target()},
    "lowrank_exp.phases.Rewind": {
        "train": Target(),
        "phase": text,
        "at": number(0, 1, below=True),
        "weights": boolean,
    },
    "lowrank_exp.phases.Agree": {
        "criteria": named(Target(), "criterion"),
        "layers": either(text, NAMES),
        "images": _IMAGES,
        "seed": whole(0, SEEDS),
        "batch_size": whole(1),
        "score_on": one_of("val", "train"),
        "absolute": boolean,
        "at": one_of("relu", "layer"),
    },
}
