"""Schedules of pruning: when filters are silenced or removed during a training, and how many.

Each is a frozen dataclass of its options. Asked at a `Moment`, with a `View` of the network, it answers with actions.
"""

from lowrank_exp.pruning.schedules.agp import AGP
from lowrank_exp.pruning.schedules.iterative import Iterative
from lowrank_exp.pruning.schedules.one_shot import OneShot
from lowrank_exp.pruning.schedules.repr import RePr
from lowrank_exp.pruning.schedules.schedule import Action, Mask, Moment, Remove, Revive, Schedule, Zero
from lowrank_exp.pruning.schedules.sfp import SFP
from lowrank_exp.pruning.schedules.view import View

Molchanov = Iterative  # by its former name

__all__ = [
    "AGP",
    "SFP",
    "Action",
    "Iterative",
    "Mask",
    "Molchanov",
    "Moment",
    "OneShot",
    "RePr",
    "Remove",
    "Revive",
    "Schedule",
    "View",
    "Zero",
]
