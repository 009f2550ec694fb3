"""The weight of a layer with its filters as rows, and back.

Legend: G groups, O out channels and I in channels of one group, K all kernel entries (1 for a linear layer).
"""

from torch import Tensor, nn

from lowrank_exp.decomposition.convolution import TRANSPOSED


def kernel_GOIK(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight of a convolution, transposed or not, or of a linear layer as `(G, O, I, K)`; differentiable.

    >>> kernel_GOIK(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2).weight).shape
    torch.Size([2, 3, 2, 9])
    """
    if isinstance(layer, nn.Linear):
        return weight[None, :, :, None]
    per_group = weight.unflatten(0, (layer.groups, -1)).flatten(3)
    return per_group.transpose(1, 2) if isinstance(layer, TRANSPOSED) else per_group


def weight_of(layer: nn.Module, kernel_GOIK: Tensor) -> Tensor:
    """Undoes `kernel_GOIK`."""
    per_group = kernel_GOIK.transpose(1, 2) if isinstance(layer, TRANSPOSED) else kernel_GOIK
    return per_group.reshape(layer.weight.shape)
