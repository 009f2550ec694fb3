"""Channels removed: a network without all channels of its groups but those kept."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lowrank_exp.network.names import by_layer
from lowrank_exp.pruning.coupling import channel_groups
from lowrank_exp.pruning.cut_groups import Removal, cut_groups_
from lowrank_exp.pruning.groups import ChannelGroup


def remove_(
    model: nn.Module,
    keep: Mapping[str | ChannelGroup, Sequence[int]],
    example_input: Tensor | None = None,
    *,
    groups: Iterable[ChannelGroup] | None = None,
) -> Removal:
    """Remove all coupled channels of `model` but those kept, in place.

    The output is that of the network in which those channels are silenced (see `mask_`); layers stay the same objects,
    their parameters are new ones, with the same `requires_grad` and no gradient. The layers remember the edits.

    Args:
        model: any network.
        keep: by group, or name of a group, which of its channels stay; groups that are not named stay whole.
        example_input: an image, to find the groups where neither the keys of `keep` nor `groups` give them.
        groups: of this model as it is, from `channel_groups`.

    Raises:
        ValueError: a group that does not exist, channels out of range, none left, unequal numbers for the groups of a
            grouped convolution, or groups of another network. The model is then as it was before.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> remove_(net, {"0": [0, 3]}, Tensor(1, 3, 8, 8)).edits
    [KeepChannels(layer='0', out=(0, 3), inputs=None), KeepChannels(layer='2', out=None, inputs=(0, 3))]
    >>> net[2].weight.shape
    torch.Size([2, 2, 3, 3])
    """
    known = {group.name: group for group in keep if isinstance(group, ChannelGroup)}
    if groups is not None:
        known |= {group.name: group for group in groups}
    elif len(known) < len(keep):
        if example_input is None:
            raise ValueError("remove_ got names of groups: pass the groups, or an example_input to find them with")
        known |= {group.name: group for group in channel_groups(model, example_input)}
    named = {key if isinstance(key, str) else key.name: kept for key, kept in keep.items()}
    wanted = by_layer(named, known, "the channels to keep")
    return cut_groups_(model, {known[name]: kept for name, kept in wanted.items()})
