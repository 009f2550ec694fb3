"""The files of ENC's VGG-16, its published rank sets, and problems to give to a policy."""

from pathlib import Path

from lowrank_exp.rank import Budget, Candidate, Problem
from lowrank_exp.rank.enc.files import profiles_from_enc
from lowrank_exp.rank.rules import cheaper_rungs

FOLDER = Path(__file__).parent / "enc_vgg16"

# Source: the network descriptions (prototxt) of Kim, Khan, Kyung 2019, tables 1, 2 and 3.
PUBLISHED = {
    "table 1 inf": [10, 17, 27, 40, 87, 76, 88, 141, 169, 194, 281, 439, 410],
    "table 1 model": [10, 17, 27, 40, 76, 76, 88, 141, 169, 194, 281, 439, 467],
    "table 1 map": [10, 16, 26, 52, 57, 74, 124, 100, 164, 241, 234, 287, 331],
    "table 2": [8, 13, 26, 33, 62, 58, 71, 118, 137, 154, 264, 297, 339],
    "table 3": [10, 17, 27, 37, 71, 77, 109, 136, 149, 194, 278, 349, 349],
    "in the code": [10, 17, 27, 42, 86, 68, 114, 140, 159, 195, 280, 351, 351],
    "uniform": [5, 24, 32, 48, 64, 96, 96, 128, 192, 192, 192, 192, 192],
}


def vgg16():
    return profiles_from_enc(FOLDER)


def problem(layers, **bounds):
    """All layers as candidates, as `allocate` makes it."""
    budget = Budget(**bounds)
    dense = {what: sum(getattr(layer, what) for layer in layers.values()) for what in ("macs", "weights", "bytes")}
    candidates = tuple(Candidate(layer, cheaper_rungs(layer, None, budget)) for layer in layers.values())
    return Problem(candidates, dict.fromkeys(dense, 0), dense, budget)
