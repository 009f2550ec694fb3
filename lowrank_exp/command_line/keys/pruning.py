"""Keys of pruning: schedules and criteria."""

from lowrank_exp.command_line.keys.kinds import Kind, Target, boolean, either, named, number, one_of, or_null, whole
from lowrank_exp.command_line.keys.networks import SEEDS
from lowrank_exp.command_line.keys.training import OPEN

_AT = one_of("relu", "layer")
_FORM = one_of("none", "l2", "layer_rank", "rank")
_HOW = one_of("sum", "mean", "max", "first")
_SCOPE = one_of("layer", "global")
_PART_OF_TRAINING = either(whole(1), OPEN)

SCHEDULES: dict[str, dict[str, Kind]] = {
    "lowrank_exp.pruning.schedules.OneShot": {
        "criterion": Target(),
        "share": OPEN,
        "scope": _SCOPE,
        "how": _HOW,
        "epoch": whole(0),
    },
    "lowrank_exp.pruning.schedules.AGP": {
        "criterion": Target(),
        "share": OPEN,
        "share_at_first": number(0, 1, below=True),
        "begin": whole(0),
        "end": or_null(whole(1)),
        "every": whole(1),
        "scope": _SCOPE,
    },
    "lowrank_exp.pruning.schedules.SFP": {
        "criterion": Target(),
        "share": OPEN,
        "every": whole(1),
        "start": boolean,
        "coupled": boolean,
    },
    "lowrank_exp.pruning.schedules.Iterative": {
        "criterion": Target(),
        "macs": or_null(OPEN),
        "accuracy": or_null(OPEN),
        "filters": or_null(whole(1)),
        "updates": whole(1, 100_000),
        "form": _FORM,
        "cost_weight": number(),
        "how": _HOW,
    },
    "lowrank_exp.pruning.schedules.RePr": {
        "criterion": Target(),
        "S1": _PART_OF_TRAINING,
        "S2": _PART_OF_TRAINING,
        "N": whole(1, 10_000),
        "share": OPEN,
        "scope": _SCOPE,
        "first": boolean,
        "null_space": Target(),
        "next_inputs": one_of("kept", "zeroed", "redrawn"),
        "same": boolean,
        "revived_gradient": number(above=True),
        "last": one_of("revived", "masked"),
    },
    "lowrank_exp.pruning.null_space.NullSpace": {
        "scale": one_of("kept", "unit", "clip"),
        "gain": number(above=True),
        "empty": one_of("least", "random", "keep"),
    },
}

CRITERIA: dict[str, dict[str, Kind]] = {
    "lowrank_exp.pruning.criteria.ActivationMean": {"at": _AT},
    "lowrank_exp.pruning.criteria.ActivationStd": {"at": _AT},
    "lowrank_exp.pruning.criteria.APoZ": {"at": _AT},
    "lowrank_exp.pruning.criteria.BNScale": {},
    "lowrank_exp.pruning.criteria.GeometricMedian": {},
    "lowrank_exp.pruning.criteria.Gradient": {"at": _AT},
    "lowrank_exp.pruning.criteria.L1": {},
    "lowrank_exp.pruning.criteria.L2": {"form": one_of("norm", "mean_square")},
    "lowrank_exp.pruning.criteria.OBD": {"at": _AT, "form": one_of("variance", "second_moment")},
    "lowrank_exp.pruning.criteria.Oracle": {"measure": one_of("loss", "accuracy"), "absolute": boolean, "at": _AT},
    "lowrank_exp.pruning.criteria.Orthogonality": {"fan_in_power": number(0, 100)},
    "lowrank_exp.pruning.criteria.Random": {"seed": whole(0, SEEDS)},
    "lowrank_exp.pruning.criteria.Taylor": {
        "at": _AT,
        "absolute": one_of("image", "mean", "none"),
        "positions": one_of("mean", "sum"),
    },
    "lowrank_exp.pruning.criteria.WeightedSum": {
        "criteria": named(Target(), "criterion"),
        "weights": named(number(-1e9), "criterion"),
        "form": _FORM,
    },
}
