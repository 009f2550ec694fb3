"""What a pruned network costs, counted in ways that have names of their own.

`removed_macs` counts the small network that is really there. `sfp_published_macs` counts as soft filter pruning's table
does: the residual stream keeps its width, and every block adds its own, narrower output into it. `molchanov_flops`
counts additions and multiplications, and those of biases.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lowrank_exp.checks import fraction
from lowrank_exp.models.residual import residual_parts
from lowrank_exp.network.cost import layer_costs, network_cost
from lowrank_exp.network.shapes import by_shapes
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.remove import remove_


def removed_macs(
    model: nn.Module,
    keep: Mapping[str | ChannelGroup, Sequence[int]],
    example_input: Tensor,
    *,
    groups: Iterable[ChannelGroup] | None = None,
) -> int:
    """MACs per image, of convolutions and linear layers, that `model` will have when `remove_` has left `keep`.

    Only shapes are computed, and `model` stays as it is. Arguments and errors are those of `remove_`.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    >>> removed_macs(net, {"0": [0, 3]}, Tensor(1, 3, 8, 8))
    640
    """

    def left(small: nn.Module, example: Tensor) -> int:
        remove_(small, keep, example_input, groups=groups)
        return network_cost(small, example).macs

    return by_shapes(left, model, example_input)


def sfp_published_macs(network: nn.Module, example_input: Tensor, keep: float) -> float:
    r"""MACs of the convolutions of a residual network as the table of soft filter pruning counts them.

    With the fraction `keep` = r of every convolution's filters left, a convolution costs

    .. math:: r^2 \text{ (second of a block, both of the first block)}, \qquad r \text{ (all others)}

    of its dense MACs: only the first block reads a narrower stream, all others the whole one; the linear layer is left
    out. No network of plain layers costs that: with filters of their own in every block, a stream that all blocks add
    to cannot be narrower. `removed_macs` counts what there is.

    Args:
        network: a ResNet of basic blocks, with shortcuts that have no convolutions, as for CIFAR.
        example_input: `(N, C, H, W)`.
        keep: r, above 0 and up to 1.

    Raises:
        ValueError: another network, or a `keep` out of range.

    Source: He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, table 1. The
    FLOPs of ResNet-20 at r = 0.7 are printed as 2.43e7; the 42.2 % beside them and this count give 2.34e7.
    """
    fraction("keep", keep, f"keep is the fraction of filters left, above 0 and up to 1; got {keep}")
    if not (pairs := basic_blocks(network)):
        raise ValueError(
            'this count exists for ResNets of blocks of two convolutions and shortcut "a" only, which has none; use '
            "removed_macs"
        )
    narrow = {id(second) for _, second in pairs} | {id(pairs[0][0])}
    macs = 0.0
    for name, cost in layer_costs(network, example_input).items():
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            macs += cost.macs * (keep**2 if id(layer) in narrow else keep)
    return macs


def basic_blocks(network: nn.Module) -> list[list[nn.Conv2d]]:
    """The convolutions of every residual block; empty where there are no blocks, or one has not two convolutions."""
    blocks = [block for block in network.modules() if residual_parts(block) is not None]
    convolutions = [[layer for layer in block.modules() if isinstance(layer, nn.Conv2d)] for block in blocks]
    return convolutions if all(len(pair) == 2 for pair in convolutions) else []


def molchanov_flops(network: nn.Module, example_input: Tensor) -> int:
    r"""Floating-point operations per image as Molchanov et al. count them.

    .. math:: 2 H W (C_{in} K^2 + 1) C_{out} \text{ of a convolution}, \qquad (2 I - 1) O \text{ of a linear layer}

    Nearly twice the MACs: a convolution's bias counts as one more weight, with bias or without.

    Args:
        network: of plain layers; only shapes are computed.
        example_input: `(N, C, ...)`.

    Raises:
        ValueError: a transposed convolution.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", appendix: 30.96 GFLOPs for VGG-16 (30.968 by this count).

    >>> molchanov_flops(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)), Tensor(1, 1, 4, 4))
    220
    """
    flops = 0
    for name, cost in by_shapes(layer_costs, network, example_input).items():
        layer = network.get_submodule(name)
        if getattr(layer, "transposed", False):
            raise ValueError(f"{name} is a transposed convolution, which this count does not know")
        read = layer.weight[0].numel()  # inputs of one output
        flops += (
            cost.macs * (2 * read - 1) // read if isinstance(layer, nn.Linear) else 2 * cost.macs * (read + 1) // read
        )
    return flops
