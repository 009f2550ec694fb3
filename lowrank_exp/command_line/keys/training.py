"""Keys of a training: options of a fit, optimizers, schedules, penalties."""

from lowrank_exp.command_line.keys.kinds import (
    Kind,
    Record,
    Target,
    anything,
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

NAMES = or_null(many(text))  # of layers, or re: patterns
OPEN = number(0, 1, above=True, below=True)
RATE = 1000.0  # the highest learning rate

PARTS: dict[str, dict[str, Kind]] = {  # of a training, each an object of its own
    "lowrank_exp.training.StochasticDepth": {
        "survival": one_of("linear", "uniform"),
        "last": number(0, 1, above=True),
        "mode": one_of("batch", "row"),
    },
    "lowrank_exp.training.QuantNoise": {
        "phi": one_of("pq", "proxy", *(f"int{bits}" for bits in range(2, 17))),
        "p": number(0, 1),
        "block": or_null(whole(1)),
        "range": one_of("tensor", "channel"),
        "centroids": whole(1),
        "iterations": whole(1),
        "layers": NAMES,
    },
    "lowrank_exp.training.Distillation": {
        "teacher": text,
        "temperature": number(0, above=True),
        "alpha": number(0, 1),
    },
}


def _as_mapping_or_target(name: str, optional: tuple[str, ...]) -> Kind:
    """A part of a training, with its `_target_` or without."""
    return either(Record(PARTS[f"lowrank_exp.training.{name}"], optional), or_null(Target()))


RECIPE: dict[str, Kind] = {
    "epochs": whole(0),
    "batch_size": whole(1),
    "optimizer": Target(),
    "schedule": or_null(Target()),
    "augment": boolean,
    "label_smoothing": number(0, 1, below=True),
    "precision": one_of("fp32", "bf16"),
    "accumulate": whole(1),
    "compile": boolean,
    "channels_last": either(boolean, one_of("auto")),
    "devices": whole(1, 1024),
    "exempt": many(text),
    "stochastic_depth": _as_mapping_or_target("StochasticDepth", ("survival", "last", "mode")),
    "quant_noise": _as_mapping_or_target(
        "QuantNoise", optional=("block", "range", "centroids", "iterations", "layers")
    ),
    "distill": _as_mapping_or_target("Distillation", ("temperature", "alpha")),
}

# Options of a phase that trains: `recipe` is where it takes those from that are not set beside it.
TRAIN = RECIPE | {
    "regularizer": or_null(Target()),
    "snapshots": many(number(0, 1)),
    "recipe": Record(RECIPE),
}

OPTIMIZER: dict[str, Kind] = {  # of torch.optim; what a certain one takes is known by its signature
    "lr": number(0, RATE),
    "weight_decay": number(0, RATE),
    "momentum": number(0, 1),
    "dampening": number(0, 1),
    "nesterov": boolean,
    "betas": many(number(0, 1, below=True), 2),
    "eps": number(0, 1),
    "alpha": number(0, 1),
    "rho": number(0, 1),
    "lr_decay": number(0, RATE),
    "momentum_decay": number(0, RATE),
    "amsgrad": boolean,
    "centered": boolean,
    "maximize": boolean,
    "foreach": or_null(boolean),
    "fused": or_null(boolean),
    "capturable": boolean,
    "differentiable": boolean,
    "decoupled_weight_decay": boolean,
    "*": anything,
}

SCHEDULES = {
    "lowrank_exp.training.schedules.constant": {},
    "lowrank_exp.training.schedules.cosine": {"warmup": number(0, 1, below=True), "final": number(0, 1)},
    "lowrank_exp.training.schedules.steps": {
        "at": many(OPEN),
        "factor": number(0, RATE, above=True),
        "warmup": number(0, 1, below=True),
    },
    "lowrank_exp.training.schedules.one_cycle": {"peak": OPEN, "start": number(0, 1), "final": number(0, 1)},
    "lowrank_exp.training.schedules.scaled": {"factor": number(0, RATE, above=True), "schedule": or_null(Target())},
    "lowrank_exp.training.slow_start.slow_start": {
        "until": OPEN,
        "factor": number(0, RATE, above=True),
        "schedule": Target(),
    },
    "lowrank_exp.regularizers.ramp": {"begin": number(0, 1), "end": number(0, 1)},
}

_PERIOD = whole(1)
REGULARIZERS = {
    "lowrank_exp.regularizers.Regularizer": {"terms": named(Target(), "term"), "projection": or_null(Target())},
    "lowrank_exp.regularizers.Weighted": {"penalty": Target(), "weight": number(), "schedule": or_null(Target())},
    "lowrank_exp.regularizers.FrobeniusDecay": {"layers": NAMES},
    "lowrank_exp.regularizers.Hoyer": {"layers": NAMES},
    "lowrank_exp.regularizers.HoyerSquare": {"layers": NAMES},
    "lowrank_exp.regularizers.L1": {"layers": NAMES},
    "lowrank_exp.regularizers.Orthogonality": {"layers": NAMES},
    "lowrank_exp.regularizers.SoftOrthogonality": {"norm": one_of("absolute", "squared"), "layers": NAMES},
    "lowrank_exp.regularizers.NuclearNorm": {"decomposition": Target(), "period": _PERIOD, "layers": NAMES},
    "lowrank_exp.regularizers.TRPProjection": {
        "decomposition": Target(),
        "energy": number(0, 1, above=True),
        "period": _PERIOD,
        "layers": NAMES,
    },
}
