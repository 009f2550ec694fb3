"""Keys of pruning: schedules and criteria."""

from lowrank_exp.command_line.keys import kinds as k
from lowrank_exp.command_line.keys.networks import SEEDS
from lowrank_exp.command_line.keys.training import OPEN

_AT = k.one_of("relu", "layer")
_FORM = k.one_of("none", "l2", "layer_rank", "rank")
_HOW = k.one_of("sum", "mean", "max", "first")
_SCOPE = k.one_of("layer", "global")
_PART_OF_TRAINING = k.either(k.whole(1), OPEN)

SCHEDULES: dict[str, dict[str, k.Kind]] = {
    "lowrank_exp.pruning.schedules.OneShot": {
        "criterion": k.Target(),
        "share": OPEN,
        "scope": _SCOPE,
        "how": _HOW,
        "epoch": k.whole(0),
    },
    "lowrank_exp.pruning.schedules.AGP": {
        "criterion": k.Target(),
        "share": OPEN,
        "share_at_first": k.number(0, 1, below=True),
        "begin": k.whole(0),
        "end": k.or_null(k.whole(1)),
        "every": k.whole(1),
        "scope": _SCOPE,
    },
    "lowrank_exp.pruning.schedules.SFP": {
        "criterion": k.Target(),
        "share": OPEN,
        "every": k.whole(1),
        "start": k.boolean,
        "coupled": k.boolean,
    },
    "lowrank_exp.pruning.schedules.Iterative": {
        "criterion": k.Target(),
        "macs": k.or_null(OPEN),
        "latency": k.or_null(OPEN),
        "accuracy": k.or_null(OPEN),
        "filters": k.or_null(k.whole(1)),
        "updates": k.whole(1, 100_000),
        "form": _FORM,
        "cost_weight": k.number(),
        "how": _HOW,
    },
    "lowrank_exp.pruning.schedules.RePr": {
        "criterion": k.Target(),
        "S1": _PART_OF_TRAINING,
        "S2": _PART_OF_TRAINING,
        "N": k.whole(1, 10_000),
        "share": OPEN,
        "scope": _SCOPE,
        "first": k.boolean,
        "null_space": k.Target(),
        "next_inputs": k.one_of("kept", "zeroed", "redrawn"),
        "same": k.boolean,
        "revived_gradient": k.number(above=True),
        "last": k.one_of("revived", "masked"),
    },
    "lowrank_exp.pruning.null_space.NullSpace": {
        "scale": k.one_of("kept", "unit", "clip"),
        "gain": k.number(above=True),
        "empty": k.one_of("least", "random", "keep"),
    },
}

CRITERIA: dict[str, dict[str, k.Kind]] = {
    "lowrank_exp.pruning.criteria.ActivationMean": {"at": _AT},
    "lowrank_exp.pruning.criteria.ActivationStd": {"at": _AT},
    "lowrank_exp.pruning.criteria.APoZ": {"at": _AT},
    "lowrank_exp.pruning.criteria.BNScale": {},
    "lowrank_exp.pruning.criteria.GeometricMedian": {},
    "lowrank_exp.pruning.criteria.Gradient": {"at": _AT},
    "lowrank_exp.pruning.criteria.L1": {},
    "lowrank_exp.pruning.criteria.L2": {"form": k.one_of("norm", "mean_square")},
    "lowrank_exp.pruning.criteria.OBD": {"at": _AT, "form": k.one_of("variance", "second_moment")},
    "lowrank_exp.pruning.criteria.Oracle": {"measure": k.one_of("loss", "accuracy"), "absolute": k.boolean, "at": _AT},
    "lowrank_exp.pruning.criteria.Orthogonality": {"fan_in_power": k.number(0, 100)},
    "lowrank_exp.pruning.criteria.Random": {"seed": k.whole(0, SEEDS)},
    "lowrank_exp.pruning.criteria.Taylor": {
        "at": _AT,
        "absolute": k.one_of("image", "mean", "none"),
        "positions": k.one_of("mean", "sum"),
    },
    "lowrank_exp.pruning.criteria.WeightedSum": {
        "criteria": k.named(k.Target(), "criterion"),
        "weights": k.named(k.number(-1e9), "criterion"),
        "form": _FORM,
    },
}
