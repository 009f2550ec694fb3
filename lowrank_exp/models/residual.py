"""The parts of residual blocks: ours and a user's own say which they are, those of torchvision and timm are known."""

from torch import nn

from lowrank_exp.layers.residual_parts import Residual, ResidualParts

# Of the forward function that makes a module such a block: its shortcut (an attribute that is None: the identity), the
# normalization that ends the branch, and the activation.
_FOREIGN = {
    ("torchvision.models.resnet", "BasicBlock.forward"): ("downsample", "bn2", "relu"),
    ("torchvision.models.resnet", "Bottleneck.forward"): ("downsample", "bn3", "relu"),
    ("timm.models.resnet", "BasicBlock.forward"): ("downsample", "bn2", "act2"),
    ("timm.models.resnet", "Bottleneck.forward"): ("downsample", "bn3", "act3"),
}
_BEHIND_THE_NORM = ("se", "drop_path")  # what blocks of timm may do to the branch after that


def residual_parts(module: nn.Module, name: str = "the block") -> ResidualParts | None:
    """The parts of a residual block; None where `module` is not one, or does not say so.

    Raises:
        ValueError: its branch does not end in a normalization.

    >>> from lowrank_exp.models import cifar_resnet
    >>> residual_parts(cifar_resnet(depth=8).layer1[0]).shortcut
    Identity()
    """
    if isinstance(module, Residual):
        declares = next(kind for kind in type(module).__mro__ if {"forward", "residual_parts"} & vars(kind).keys())
        return module.residual_parts() if "residual_parts" in vars(declares) else None
    forward = type(module).forward
    known = _FOREIGN.get((getattr(forward, "__module__", None), getattr(forward, "__qualname__", None)))
    if known is None:
        return None
    if behind := [part for part in _BEHIND_THE_NORM if getattr(module, part, None) is not None]:
        raise ValueError(f"the branch of {name} ends in {behind[0]}: it must end in its normalization")
    return ResidualParts(*(getattr(module, part) for part in known))
