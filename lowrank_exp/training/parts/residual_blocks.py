"""The residual blocks of a network, and what of them is needed to run one without its branch.

A block computes act(f(x) + shortcut(x)); its branch f ends in a normalization with scale and shift.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_exp.models.residual import residual_parts


@dataclass(frozen=True)
class ResidualBlock:
    """One block: its module and name in the network, and three of its parts."""

    name: str
    module: nn.Module
    shortcut: Callable[[Tensor], Tensor] | None
    norm: nn.Module
    activation: nn.Module | None

    def without_branch(self, x: Tensor) -> Tensor:
        """What the block gives where its branch is 0: act(shortcut(x))."""
        x = x if self.shortcut is None else self.shortcut(x)
        if self.activation is None or isinstance(self.activation, nn.ReLU):
            return F.relu(x)
        return self.activation(x.clone())  # it may work in place, and x is the output of the block before

    def scale_(self, factor: float) -> None:
        """Multiply the branch by `factor`: scale and shift of its last normalization, in place."""
        with torch.no_grad():
            self.norm.weight.mul_(factor)
            self.norm.bias.mul_(factor)

    @property
    def is_new(self) -> bool:
        """Whether the last normalization stands as it is made: scale 1 and shift 0."""
        return bool((self.norm.weight == 1).all()) and not self.norm.bias.any()


def residual_blocks(network: nn.Module) -> list[ResidualBlock]:
    """The residual blocks of `network`, which may lie on the meta device, in its order.

    Found are the blocks that say so by `residual_parts`, as those of this package's networks do, and those of
    torchvision's ResNets (ResNeXt and wide ones too) and of timm's, whatever took the place of their convolutions.

    Raises:
        ValueError: there are none, or one whose branch does not end in a normalization with scale and shift.

    >>> from lowrank_exp.models import cifar_resnet
    >>> [block.name for block in residual_blocks(cifar_resnet(depth=8))]
    ['layer1.0', 'layer2.0', 'layer3.0']
    """
    found = []
    for name, module in network.named_modules():
        if (parts := residual_parts(module, name)) is None:
            continue
        norm = parts.norm
        if not isinstance(norm, _BatchNorm | nn.GroupNorm) or norm.weight is None:
            raise ValueError(
                f"the branch of {name} ends in {norm}: it must end in a normalization with scale and shift"
            )
        found.append(ResidualBlock(name, module, *parts))
    if not found:
        raise ValueError(
            "this network has no residual blocks that are known: those of resnet20 to resnet110, resnet18 to resnet152 "
            "and of the ResNets of torchvision and timm are, and blocks with a method residual_parts"
        )
    return found
