"""Layers of ours that surgery understands, and what it asks of them: a user's own may answer too."""

from lowrank_exp.layers.moves_channels import NOTHING, MovesChannels
from lowrank_exp.layers.pad_shortcut import PadShortcut
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.layers.residual_parts import Residual, ResidualParts

__all__ = ["NOTHING", "MovesChannels", "PadShortcut", "Reorder", "Residual", "ResidualParts"]
