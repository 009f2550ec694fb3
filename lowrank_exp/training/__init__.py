"""Training, evaluation and batch-norm recalibration of a classifier."""

from lowrank_exp.training.device import resolve as resolve_device
from lowrank_exp.training.distributed import places
from lowrank_exp.training.evaluate import Scores, evaluate, why_no_scores
from lowrank_exp.training.fit import fit_
from lowrank_exp.training.parts.distillation import Distillation
from lowrank_exp.training.parts.part import AtWork, Fit, Part
from lowrank_exp.training.parts.pruner import Pruner, Pruning
from lowrank_exp.training.parts.quant_noise import QuantNoise
from lowrank_exp.training.parts.stochastic_depth import StochasticDepth
from lowrank_exp.training.probes.answers import answers_error
from lowrank_exp.training.probes.first_images import FirstImages
from lowrank_exp.training.probes.network_score import NetworkScore
from lowrank_exp.training.recalibrate import estimated_layers, recalibrate_
from lowrank_exp.training.recipe import Recipe

__all__ = [
    "AtWork",
    "Distillation",
    "FirstImages",
    "Fit",
    "NetworkScore",
    "Part",
    "Pruner",
    "Pruning",
    "QuantNoise",
    "Recipe",
    "Scores",
    "StochasticDepth",
    "answers_error",
    "estimated_layers",
    "evaluate",
    "fit_",
    "places",
    "recalibrate_",
    "resolve_device",
    "why_no_scores",
]
