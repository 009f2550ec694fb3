"""Structured pruning: scores of filters, choice of channels, masks, and removal.

`channel_groups` finds which channels go together, `mask_` silences some, `remove_` takes them out of the network.
"""

from lowrank_exp.pruning.counting import molchanov_flops, removed_macs, sfp_published_macs
from lowrank_exp.pruning.coupling import Coupling, channel_groups, couple
from lowrank_exp.pruning.cut_groups import Removal
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.mask import Masks, keepable, mask_
from lowrank_exp.pruning.remove import remove_

__all__ = [
    "ChannelGroup",
    "Coupling",
    "Masks",
    "Removal",
    "channel_groups",
    "couple",
    "keepable",
    "mask_",
    "molchanov_flops",
    "remove_",
    "removed_macs",
    "sfp_published_macs",
]
