"""Keys of decompositions, rank policies and fits to data."""

from lowrank_exp.command_line.keys import kinds as k
from lowrank_exp.command_line.keys.networks import SEEDS

_COUNT = 10_000
_ALS: dict[str, k.Kind] = {
    "ridge": k.number(),
    "acceleration": k.boolean,
    "tolerance": k.number(0, 1),
    "max_iterations": k.whole(1),
    "max_seconds": k.or_null(k.number(0, k.MILLION, above=True)),
    "restarts": k.whole(0, _COUNT),
    "seed": k.whole(0, SEEDS),
}

_KINDS = k.either(k.null, k.text, k.Target(), k.many(k.either(k.text, k.Target())))  # null: left alone
DECOMPOSITION = k.either(
    k.Record(
        {"conv": _KINDS, "linear": _KINDS, "layers": k.or_null(k.named(_KINDS, "layer"))}, optional=("linear", "layers")
    ),
    k.Target(),  # one that goes to the layers that it takes
)

_SOLVER = {"solver": k.one_of("ours", "tensorly")}
DECOMPOSITIONS = {
    "lowrank_exp.decomposition.ChannelSVD": {"order": k.one_of("kernel_first", "pointwise_first")},
    "lowrank_exp.decomposition.SpatialSVD": {"order": k.one_of("vertical_first", "horizontal_first")},
    "lowrank_exp.decomposition.LinearSVD": {},
    "lowrank_exp.decomposition.GroupedChannelSVD": {"groups": k.whole(1, _COUNT)},
    "lowrank_exp.decomposition.SliceWiseSVD": {"form": k.one_of("auto", "dense", "chain"), "maps_limit": k.whole(1)},
    "lowrank_exp.decomposition.Tucker1": {"mode": k.one_of("out", "in")},
    "lowrank_exp.decomposition.Tucker2": {"iterations": k.whole(0), "tolerance": k.number(0, 1)} | _SOLVER,
    "lowrank_exp.decomposition.TensorTrain": _SOLVER,
    "lowrank_exp.decomposition.CP": _ALS
    | _SOLVER
    | {
        "spatial": k.one_of("separate", "merged"),
        "stable": k.boolean,
        "init": k.one_of("auto", "slices", "pencil", "hosvd", "random"),
    },
    "lowrank_exp.decomposition.JaderbergScheme1": _ALS,
    "lowrank_exp.decomposition.Monochromatic": {
        "centres": k.one_of("best", "mean"),
        "restarts": k.whole(1, _COUNT),
        "seed": k.whole(0, SEEDS),
    },
    "lowrank_exp.decomposition.Biclustering": {
        "in_clusters": k.whole(1, _COUNT),
        "out_clusters": k.whole(1, _COUNT),
        "restarts": k.whole(1, _COUNT),
        "seed": k.whole(0, SEEDS),
        "inner": k.one_of("outer", "svd"),
        "iterations": k.whole(1),
    },
    "lowrank_exp.decomposition.ProductQuantization": {
        "kernels_per_block": k.whole(1, _COUNT),
        "pointwise_block": k.whole(1, _COUNT),
        "linear_block": k.whole(1, _COUNT),
        "iterations": k.whole(1),
        "centroids": k.one_of("float16", "float32"),
        "gradient": k.one_of("sum", "mean"),
        "seed": k.whole(0, SEEDS),
    },
}

_RANK = k.either(k.null, k.whole(0), k.many(k.whole(0)))  # how high, and that it is not 0, the layer tells
_RULE = k.either(_RANK, k.Record({"min": k.or_null(k.whole(1)), "max": k.or_null(k.whole(1))}, optional=("min", "max")))
_BUDGET = k.or_null(k.number(0, 1, above=True))
_FIRST = k.one_of("map", "half", "max")
_METRIC = k.one_of("A_p", "A_m", "A_c")
_LOSS = k.one_of("error", "response")
_ROUND = k.one_of("up", "nearest", "down")
_SETS: dict[str, k.Kind] = {
    "metric": _METRIC,
    "space": k.number(0, 1, above=True),
    "margin": k.number(0, 1, above=True),
    "density": k.or_null(k.number(0, 1, above=True)),
    "first": _FIRST,
    "sub_groups": k.or_null(k.whole(1)),
    "curve": k.or_null(k.one_of("energy", "measured")),
}

POLICIES: dict[str, dict[str, k.Kind]] = {
    "alds": {
        "bound": k.one_of("paper", "code"),
        "solver": k.one_of("alternating", "exact"),
        "restarts": k.whole(1, _COUNT),
        "iterations": k.whole(1, _COUNT),
        "seed": k.whole(0, SEEDS),
    },
    "c_step": {
        "price": k.or_null(k.number(above=True)),
        "mu": k.number(above=True),
        "cost": k.one_of("macs", "weights"),
        "normalised": k.boolean,
    },
    "enc_inf": _SETS | {"candidates": k.whole(1, _COUNT)},
    "enc_map": {"metric": k.one_of("energy", "measured", "response"), "first": _FIRST},
    "enc_model": _SETS,
    "energy": {
        "share": k.or_null(k.number(0, 1, above=True)),
        "power": k.one_of(1, 2),
        "rule": k.one_of("share", "product"),
        "metric": k.or_null(k.one_of("response")),
    },
    "evbmf": {"solver": k.one_of("global", "reference"), "weaken": k.number(0, 1, above=True), "round": _ROUND},
    "fixed": {},
    "greedy": {"metric": _LOSS},
    "greedy_eval": {"threshold": k.or_null(k.number(above=True))},
    "knapsack": {
        "metric": k.either(k.one_of("error", "response", "energy", "measured", "sensitivity"), k.Target()),
        "limit_seconds": k.number(0, k.MILLION, above=True),
    },
    "operator_norm": {"eps": k.or_null(k.number(0, 1, below=True))},
    "stable_rank": {"scaled": k.boolean, "times": k.or_null(k.number(above=True)), "round": _ROUND},
    "uniform": {"metric": k.or_null(_LOSS)},
}

ALLOCATE: dict[str, k.Kind] = {
    "policy": k.either(k.one_of(*POLICIES), k.import_path, k.Target()),
    "macs": _BUDGET,
    "weights": _BUDGET,
    "bytes": _BUDGET,
    "latency": _BUDGET,
    "latency_ms": k.or_null(k.number(0, k.MILLION, above=True)),
    "multiple": k.or_null(k.whole(1)),
    "over": k.one_of("all", "conv"),
    "ranks": k.either(k.null, k.text, k.named(_RANK, "layer"), k.Target()),
    "rules": k.or_null(k.named(_RULE, "layer")),
    "fixed": k.or_null(k.named(_RANK, "layer")),
    "resolve": k.either(k.boolean, k.whole(1)),
    "shuffle": k.or_null(k.Record({"seed": k.whole(0, SEEDS)})),
}
RANKS_AT_WIDTH = {"width": k.number(0, 100, above=True), "*": _RANK}


def of_allocate(policy: object) -> dict[str, k.Kind]:
    """Keys of `lowrank_exp.rank.allocate`: its own and those of the policy, which are any where it is not ours."""
    ours = isinstance(policy, str) and "." not in policy
    return ALLOCATE | (POLICIES.get(policy, {}) if ours else {"*": k.anything})


_STAGE = k.many(k.number(above=True), 2)  # penalty and iterations
RECONSTRUCT = k.Record(
    {
        "fit": k.or_null(k.one_of("whitened", "response", "relu")),
        "images": k.whole(1, 10**8),
        "batch_size": k.whole(1),
        "asymmetric": k.boolean,
        "positions": k.whole(1),
        "schedule": k.many(_STAGE),
        "cutoff": k.number(0, 1, below=True),
        "memory": k.whole(1, 2**60),
        "otherwise": k.one_of("refuse", "weights"),
    },
    optional=("images", "batch_size", "asymmetric", "positions", "schedule", "cutoff", "memory", "otherwise"),
)
LATENCY = k.Record(
    {
        "batch_size": k.either(k.whole(1, 10_000), k.some(k.whole(1, 10_000))),
        "seconds": k.number(0, 3600),
        "runtime": k.or_null(k.text),
        "threads": k.or_null(k.whole(1, 1024)),
    }
)
MEASURE = k.Record(
    {
        "quality": k.one_of("accuracy", "loss"),
        "images": k.whole(1, 10**8),
        "seed": k.whole(0, SEEDS),
        "samples": k.whole(1, _COUNT),
        "others": k.one_of("dense", "highest"),
        "gradients": k.whole(1, 10**8),
        "batch_size": k.whole(1),
    }
)
