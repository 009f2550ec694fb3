"""Criteria: one score for every filter of a layer, the lowest to be removed first. One family per file.

`filter_scores` applies any of them; each is a frozen dataclass of its options. `oracle` measures what the others
estimate, and `Oracle` is the criterion that does so.
"""

from lowrank_exp.pruning.criteria.activations import ActivationMean, ActivationStd, APoZ, Gradient
from lowrank_exp.pruning.criteria.at_random import Random
from lowrank_exp.pruning.criteria.bn_scale import BNScale
from lowrank_exp.pruning.criteria.criterion import DataCriterion, WeightCriterion
from lowrank_exp.pruning.criteria.filter_scores import filter_scores
from lowrank_exp.pruning.criteria.geometric_median import GeometricMedian
from lowrank_exp.pruning.criteria.magnitude import L1, L2
from lowrank_exp.pruning.criteria.oracle import Oracle, oracle
from lowrank_exp.pruning.criteria.orthogonality import Orthogonality, overlap
from lowrank_exp.pruning.criteria.taylor import OBD, Taylor
from lowrank_exp.pruning.criteria.weighted_sum import WeightedSum

__all__ = [
    "L1",
    "L2",
    "OBD",
    "APoZ",
    "ActivationMean",
    "ActivationStd",
    "BNScale",
    "DataCriterion",
    "GeometricMedian",
    "Gradient",
    "Oracle",
    "Orthogonality",
    "Random",
    "Taylor",
    "WeightCriterion",
    "WeightedSum",
    "filter_scores",
    "oracle",
    "overlap",
]
