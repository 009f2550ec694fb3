"""What methods are made of, one phase per file: every `_target_` of a phase is `lowrank_exp.phases.<Name>`."""

from lowrank_exp.phases.agree import Agree
from lowrank_exp.phases.controls import DenseByWidth, DenseTrainedOn, FromScratch
from lowrank_exp.phases.cuttlefish import TrainOn, TrainUntilSettled
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.phases.fastest import Fastest
from lowrank_exp.phases.learning_compression import LearningCompression
from lowrank_exp.phases.linear_probe import LinearProbe
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.prune import Prune, Remove
from lowrank_exp.phases.recalibrate import Recalibrate
from lowrank_exp.phases.rewind import Rewind
from lowrank_exp.phases.small import Evaluate, Recompose
from lowrank_exp.phases.svd import ToSVD, Truncate
from lowrank_exp.phases.train import Train

__all__ = [
    "Agree",
    "DenseByWidth",
    "DenseTrainedOn",
    "Done",
    "Evaluate",
    "Factorize",
    "Fastest",
    "FromScratch",
    "LearningCompression",
    "LinearProbe",
    "Phase",
    "Prune",
    "Recalibrate",
    "Recompose",
    "Remove",
    "Rewind",
    "Setting",
    "ToSVD",
    "Train",
    "TrainOn",
    "TrainUntilSettled",
    "Truncate",
]
