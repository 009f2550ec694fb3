"""Keys of a training: options of a fit, optimizers, schedules, penalties."""

from lowrank_exp.command_line.keys import kinds as k

NAMES = k.or_null(k.many(k.text))  # of layers, or re: patterns
OPEN = k.number(0, 1, above=True, below=True)
RATE = 1000.0  # the highest learning rate

PARTS: dict[str, dict[str, k.Kind]] = {  # of a training, each an object of its own
    "lowrank_exp.training.StochasticDepth": {
        "survival": k.one_of("linear", "uniform"),
        "last": k.number(0, 1, above=True),
        "mode": k.one_of("batch", "row"),
    },
    "lowrank_exp.training.QuantNoise": {
        "phi": k.one_of("pq", "proxy", *(f"int{bits}" for bits in range(2, 17))),
        "p": k.number(0, 1),
        "block": k.or_null(k.whole(1)),
        "range": k.one_of("tensor", "channel"),
        "centroids": k.whole(1),
        "iterations": k.whole(1),
        "layers": NAMES,
    },
    "lowrank_exp.training.Distillation": {
        "teacher": k.text,
        "temperature": k.number(0, above=True),
        "alpha": k.number(0, 1),
    },
}


def _as_mapping_or_target(name: str, optional: tuple[str, ...]) -> k.Kind:
    """A part of a training, with its `_target_` or without."""
    return k.either(k.Record(PARTS[f"lowrank_exp.training.{name}"], optional), k.or_null(k.Target()))


RECIPE: dict[str, k.Kind] = {
    "epochs": k.whole(0),
    "batch_size": k.whole(1),
    "optimizer": k.Target(),
    "schedule": k.or_null(k.Target()),
    "augment": k.boolean,
    "label_smoothing": k.number(0, 1, below=True),
    "precision": k.one_of("fp32", "bf16"),
    "accumulate": k.whole(1),
    "compile": k.boolean,
    "channels_last": k.either(k.boolean, k.one_of("auto")),
    "devices": k.whole(1, 1024),
    "exempt": k.many(k.text),
    "stochastic_depth": _as_mapping_or_target("StochasticDepth", ("survival", "last", "mode")),
    "quant_noise": _as_mapping_or_target(
        "QuantNoise", optional=("block", "range", "centroids", "iterations", "layers")
    ),
    "distill": _as_mapping_or_target("Distillation", ("temperature", "alpha")),
}

# Options of a phase that trains: `recipe` is where it takes those from that are not set beside it.
TRAIN = RECIPE | {
    "regularizer": k.or_null(k.Target()),
    "snapshots": k.many(k.number(0, 1)),
    "recipe": k.Record(RECIPE),
}

OPTIMIZER: dict[str, k.Kind] = {  # of torch.optim; what a certain one takes is known by its signature
    "lr": k.number(0, RATE),
    "weight_decay": k.number(0, RATE),
    "momentum": k.number(0, 1),
    "dampening": k.number(0, 1),
    "nesterov": k.boolean,
    "betas": k.many(k.number(0, 1, below=True), 2),
    "eps": k.number(0, 1),
    "alpha": k.number(0, 1),
    "rho": k.number(0, 1),
    "lr_decay": k.number(0, RATE),
    "momentum_decay": k.number(0, RATE),
    "amsgrad": k.boolean,
    "centered": k.boolean,
    "maximize": k.boolean,
    "foreach": k.or_null(k.boolean),
    "fused": k.or_null(k.boolean),
    "capturable": k.boolean,
    "differentiable": k.boolean,
    "decoupled_weight_decay": k.boolean,
    "*": k.anything,
}

SCHEDULES = {
    "lowrank_exp.training.schedules.constant": {},
    "lowrank_exp.training.schedules.cosine": {"warmup": k.number(0, 1, below=True), "final": k.number(0, 1)},
    "lowrank_exp.training.schedules.steps": {
        "at": k.many(OPEN),
        "factor": k.number(0, RATE, above=True),
        "warmup": k.number(0, 1, below=True),
    },
    "lowrank_exp.training.schedules.one_cycle": {"peak": OPEN, "start": k.number(0, 1), "final": k.number(0, 1)},
    "lowrank_exp.training.schedules.scaled": {
        "factor": k.number(0, RATE, above=True),
        "schedule": k.or_null(k.Target()),
    },
    "lowrank_exp.training.slow_start.slow_start": {
        "until": OPEN,
        "factor": k.number(0, RATE, above=True),
        "schedule": k.Target(),
    },
    "lowrank_exp.regularizers.ramp": {"begin": k.number(0, 1), "end": k.number(0, 1)},
}

_PERIOD = k.whole(1)
REGULARIZERS = {
    "lowrank_exp.regularizers.Regularizer": {"terms": k.named(k.Target(), "term"), "projection": k.or_null(k.Target())},
    "lowrank_exp.regularizers.Weighted": {
        "penalty": k.Target(),
        "weight": k.number(),
        "schedule": k.or_null(k.Target()),
    },
    "lowrank_exp.regularizers.FrobeniusDecay": {"layers": NAMES},
    "lowrank_exp.regularizers.Hoyer": {"layers": NAMES},
    "lowrank_exp.regularizers.HoyerSquare": {"layers": NAMES},
    "lowrank_exp.regularizers.L1": {"layers": NAMES},
    "lowrank_exp.regularizers.Orthogonality": {"layers": NAMES},
    "lowrank_exp.regularizers.SoftOrthogonality": {"norm": k.one_of("absolute", "squared"), "layers": NAMES},
    "lowrank_exp.regularizers.NuclearNorm": {"decomposition": k.Target(), "period": _PERIOD, "layers": NAMES},
    "lowrank_exp.regularizers.TRPProjection": {
        "decomposition": k.Target(),
        "energy": k.number(0, 1, above=True),
        "period": _PERIOD,
        "layers": NAMES,
    },
}
