"""Keys of decompositions, rank policies and fits to data."""

from lowrank_exp.command_line.keys.kinds import (
    MILLION,
    Kind,
    Record,
    Target,
    anything,
    boolean,
    either,
    import_path,
    many,
    named,
    null,
    number,
    one_of,
    or_null,
    text,
    whole,
)
from lowrank_exp.command_line.keys.networks import SEEDS

_COUNT = 10_000
_ALS: dict[str, Kind] = {
    "ridge": number(),
    "acceleration": boolean,
    "tolerance": number(0, 1),
    "max_iterations": whole(1),
    "max_seconds": or_null(number(0, MILLION, above=True)),
    "restarts": whole(0, _COUNT),
    "seed": whole(0, SEEDS),
}

_KINDS = either(null, text, Target(), many(either(text, Target())))  # null: left alone
DECOMPOSITION = either(
    Record(
        {"conv": _KINDS, "linear": _KINDS, "layers": or_null(named(_KINDS, "layer"))}, optional=("linear", "layers")
    ),
    Target(),  # one that goes to the layers that it takes
)

DECOMPOSITIONS = {
    "lowrank_exp.decomposition.ChannelSVD": {"order": one_of("kernel_first", "pointwise_first")},
    "lowrank_exp.decomposition.SpatialSVD": {"order": one_of("vertical_first", "horizontal_first")},
    "lowrank_exp.decomposition.LinearSVD": {},
    "lowrank_exp.decomposition.GroupedChannelSVD": {"groups": whole(1, _COUNT)},
    "lowrank_exp.decomposition.SliceWiseSVD": {"form": one_of("auto", "dense", "chain"), "maps_limit": whole(1)},
    "lowrank_exp.decomposition.Tucker1": {"mode": one_of("out", "in")},
    "lowrank_exp.decomposition.Tucker2": {"iterations": whole(0), "tolerance": number(0, 1)},
    "lowrank_exp.decomposition.TensorTrain": {},
    "lowrank_exp.decomposition.CP": _ALS
    | {
        "spatial": one_of("separate", "merged"),
        "stable": boolean,
        "init": one_of("auto", "slices", "pencil", "hosvd", "random"),
    },
    "lowrank_exp.decomposition.JaderbergScheme1": _ALS,
    "lowrank_exp.decomposition.Monochromatic": {
        "centres": one_of("best", "mean"),
        "restarts": whole(1, _COUNT),
        "seed": whole(0, SEEDS),
    },
    "lowrank_exp.decomposition.Biclustering": {
        "in_clusters": whole(1, _COUNT),
        "out_clusters": whole(1, _COUNT),
        "restarts": whole(1, _COUNT),
        "seed": whole(0, SEEDS),
        "inner": one_of("outer", "svd"),
        "iterations": whole(1),
    },
    "lowrank_exp.decomposition.ProductQuantization": {
        "kernels_per_block": whole(1, _COUNT),
        "pointwise_block": whole(1, _COUNT),
        "linear_block": whole(1, _COUNT),
        "iterations": whole(1),
        "centroids": one_of("float16", "float32"),
        "gradient": one_of("sum", "mean"),
        "seed": whole(0, SEEDS),
    },
}

_RANK = either(null, whole(0), many(whole(0)))  # how high, and that it is not 0, the layer tells
_RULE = either(_RANK, Record({"min": or_null(whole(1)), "max": or_null(whole(1))}, optional=("min", "max")))
_BUDGET = or_null(number(0, 1, above=True))
_FIRST = one_of("map", "half", "max")
_METRIC = one_of("A_p", "A_m", "A_c")
_SETS: dict[str, Kind] = {
    "metric": _METRIC,
    "space": number(0, 1, above=True),
    "margin": number(0, 1, above=True),
    "density": or_null(number(0, 1, above=True)),
    "first": _FIRST,
    "sub_groups": or_null(whole(1)),
    "curve": or_null(one_of("energy", "measured")),
}

POLICIES: dict[str, dict[str, Kind]] = {
    "alds": {
        "bound": one_of("paper", "code"),
        "solver": one_of("alternating", "exact"),
        "restarts": whole(1, _COUNT),
        "iterations": whole(1, _COUNT),
        "seed": whole(0, SEEDS),
    },
    "c_step": {
        "price": or_null(number(above=True)),
        "mu": number(above=True),
        "cost": one_of("macs", "weights"),
        "normalised": boolean,
    },
    "enc_inf": _SETS | {"candidates": whole(1, _COUNT)},
    "enc_map": {"metric": one_of("energy", "measured"), "first": _FIRST},
    "enc_model": _SETS,
    "energy": {
        "share": or_null(number(0, 1, above=True)),
        "power": one_of(1, 2),
        "rule": one_of("share", "product"),
    },
    "evbmf": {"solver": one_of("global", "reference"), "weaken": number(0, 1, above=True)},
    "fixed": {},
    "greedy_eval": {"threshold": or_null(number(above=True))},
    "knapsack": {
        "metric": either(one_of("error", "energy", "measured", "sensitivity"), Target()),
        "limit_seconds": number(0, MILLION, above=True),
    },
    "operator_norm": {"eps": or_null(number(0, 1, below=True))},
    "stable_rank": {"scaled": boolean, "times": or_null(number(above=True))},
    "uniform": {},
}

ALLOCATE: dict[str, Kind] = {
    "policy": either(one_of(*POLICIES), import_path, Target()),
    "macs": _BUDGET,
    "weights": _BUDGET,
    "bytes": _BUDGET,
    "multiple": or_null(whole(1)),
    "over": one_of("all", "conv"),
    "ranks": either(null, text, named(_RANK, "layer"), Target()),
    "rules": or_null(named(_RULE, "layer")),
    "fixed": or_null(named(_RANK, "layer")),
}
RANKS_AT_WIDTH = {"width": number(0, 100, above=True), "*": _RANK}


def of_allocate(policy: object) -> dict[str, Kind]:
    """Keys of `lowrank_exp.rank.allocate`: its own and those of the policy, which are any where it is not ours."""
    ours = isinstance(policy, str) and "." not in policy
    return ALLOCATE | (POLICIES.get(policy, {}) if ours else {"*": anything})


_STAGE = many(number(above=True), 2)  # penalty and iterations
RECONSTRUCT = Record(
    {
        "fit": or_null(one_of("whitened", "response", "relu")),
        "images": whole(1, 10**8),
        "batch_size": whole(1),
        "asymmetric": boolean,
        "positions": whole(1),
        "schedule": many(_STAGE),
        "cutoff": number(0, 1, below=True),
        "memory": whole(1, 2**60),
    },
    optional=("images", "batch_size", "asymmetric", "positions", "schedule", "cutoff", "memory"),
)
MEASURE = Record(
    {
        "quality": one_of("accuracy", "loss"),
        "images": whole(1, 10**8),
        "seed": whole(0, SEEDS),
        "samples": whole(1, _COUNT),
        "others": one_of("dense", "highest"),
        "gradients": whole(1, 10**8),
        "batch_size": whole(1),
    }
)
