"""Which network the figures of a job are compared with, and what is recorded of it."""

from lowrank_exp.files.results import PhaseResult
from lowrank_exp.job.dense import Dense, find_dense_phase
from lowrank_exp.phases import Evaluate, Recompose
from support.cells import cells
from support.composed import composed, flattened, made

COSTS = {"macs": 80, "weights": 8, "parameters": 9}


def phases(*names):
    """Those called `cut...` compress, all others leave the network dense."""
    return {name: Recompose() if name.startswith("cut") else Evaluate() for name in names}


@cells(
    ("order", "named", "known", "expected"),
    [
        (("train", "cut"), None, False, "train"),
        (("cut", "train"), None, True, "initial"),
        (("cut", "train"), "train", False, "train"),  # in SVD form, at full rank
        (("cut", "dense", "train"), None, False, "dense"),
        (("train", "dense", "cut"), "other", False, "dense"),
        (("warmup", "cut"), "initial", False, "initial"),
        (("train",), "initial", False, "train"),  # nothing is compressed
        (("train", "finetune"), "initial", True, "initial"),
    ],
)
def test_the_phase_that_measures_the_dense_network(order, named, known, expected):
    method = {} if named is None else {"dense": named}
    assert find_dense_phase(phases(*order), method, known) == expected


FULL = PhaseResult("train", 0.9, macs=80, weights=8, parameters=9, bytes=30, latency_ms=2.0, values={"a": 1.0})
FORM = PhaseResult("train", 0.9, macs=100, weights=8, parameters=9, bytes=30, latency_ms=2.0)
TRAINED = Dense("train", COSTS, False, False)


@cells(
    ("dense", "measured", "epochs", "accuracy", "size", "said"),
    [
        (TRAINED, FULL, {"train": 3}, 0.9, 30, ""),
        (TRAINED, FORM, {"train": 3}, 0.9, None, ""),  # its file and its time are those of another form
        (TRAINED, FULL, {"train": 0, "finetune": 3}, None, None, "nothing has trained it before train"),
        (Dense("initial", COSTS, False, False), FULL, {"prune": 3}, None, None, "its weights are not from a file"),
        (Dense("initial", COSTS, True, True), FULL, {}, None, None, "model.weights has a compressed network"),
        (Dense("gone", COSTS, True, False), FULL, {}, None, None, "nothing was measured after gone"),
    ],
)
def test_what_is_recorded(dense, measured, epochs, accuracy, size, said):
    found = dense.result([measured], epochs)
    assert {name: getattr(found, name) for name in COSTS} == COSTS
    assert (found.accuracy, found.bytes, found.values) == (accuracy, size, {})
    assert (found.latency_ms is None) == (size is None)
    assert [said in line for line in found.warnings] == [True] * bool(said)


def test_a_network_with_weights_is_measured_before_the_first_phase_unless_it_came_compressed():
    flags = [(True, False), (True, True), (False, False)]
    assert [Dense("initial", COSTS, *both).is_measured_first for both in flags] == [True, False, False]
    assert not Dense("train", COSTS, True, False).is_measured_first


def test_phases_that_make_a_network_smaller_do_not_measure_the_dense_one():
    methods = {
        "decompose": "train",
        "prune": "train",
        "svd_training": "train",
        "oneshot": "evaluate",
        "sfp": "initial",
        "repr": "initial",
        "factorized": "initial",
        "pufferfish": "initial",
        "cuttlefish": "initial",
    }
    for name, expected in methods.items():
        cfg = flattened(composed(f"method={name}"))
        every = {phase: made(cfg, phase) for phase in cfg.method.order}
        assert (name, find_dense_phase(every, cfg.method, False)) == (name, expected)
