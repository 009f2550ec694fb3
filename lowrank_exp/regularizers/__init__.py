"""Penalties on weights, factors and singular values, with gradients in closed form; one penalty per file.

A penalty adds its gradient to `.grad` of the parameters it concerns, after the backward pass of the loss and before the
optimizer's step; nothing of it is in autograd's graph. `Regularizer` holds the weighted penalties of a training.
"""

from lowrank_exp.regularizers.frobenius_decay import FrobeniusDecay
from lowrank_exp.regularizers.nuclear_norm import NuclearNorm, TRPProjection
from lowrank_exp.regularizers.orthogonality import Orthogonality
from lowrank_exp.regularizers.penalty import Penalty
from lowrank_exp.regularizers.quadratic_penalty import QuadraticPenalty
from lowrank_exp.regularizers.ramp import ramp
from lowrank_exp.regularizers.regularizer import Regularizer, Weighted
from lowrank_exp.regularizers.soft_orthogonality import SoftOrthogonality
from lowrank_exp.regularizers.sparsity import L1, Hoyer, HoyerSquare
from lowrank_exp.regularizers.weight_decay import parameter_groups

__all__ = [
    "L1",
    "FrobeniusDecay",
    "Hoyer",
    "HoyerSquare",
    "NuclearNorm",
    "Orthogonality",
    "Penalty",
    "QuadraticPenalty",
    "Regularizer",
    "SoftOrthogonality",
    "TRPProjection",
    "Weighted",
    "parameter_groups",
    "ramp",
]
