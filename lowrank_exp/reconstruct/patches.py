"""What a layer sees and what it answers, one row per place: patches x and responses y.

Legend: N images, G groups, O out channels and I in channels of one group, K kernel entries, D = I K, P places (of a few
images at a time).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CHUNK = 2**26  # bytes of the rows that are made at a time


def patches_refusal(layer: nn.Module) -> str | None:
    """Why there are no patches of the inputs of `layer`; None where there are.

    >>> patches_refusal(nn.ConvTranspose2d(2, 2, 3))
    'patches are taken of the inputs of Conv1d, Conv2d and Linear layers, not of ConvTranspose2d'
    """
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        return None
    return f"patches are taken of the inputs of Conv1d, Conv2d and Linear layers, not of {type(layer).__name__}"


def patches_GPD(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The rows that the weight of `layer` is multiplied with, `(G, P, D)` in float64, some images at a time.

    Stride, padding (its mode too), dilation and groups are those of the layer, so with `weight_GOD` of the layer the
    products `patches_GPD @ weight_GOD.mT` are its responses less the bias.

    Args:
        layer: a convolution of one or two axes, or a linear layer.
        x: its input, with any leading dimensions where the layer is linear.

    Raises:
        ValueError: another layer.

    >>> [rows.shape for rows in patches_GPD(nn.Conv2d(4, 6, 3, groups=2), torch.zeros(5, 4, 8, 8))]
    [torch.Size([2, 180, 18])]
    """
    if refusal := patches_refusal(layer):
        raise ValueError(refusal)
    x = real(x)
    if isinstance(layer, nn.Linear):
        rows_PD = x.reshape(-1, x.shape[-1])
        for some_PD in rows_PD.split(max(1, CHUNK // (8 * x.shape[-1]))):
            yield some_PD.double()[None]
        return
    x = x if x.dim() == len(layer.kernel_size) + 2 else x[None]
    flat = (*layer.kernel_size, 1)[:2], (*layer.dilation, 1)[:2], (*layer.stride, 1)[:2]
    for few in x.split(_images(layer, x)):
        padded = F.pad(few, _padding(layer), mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
        plane = padded if padded.dim() == 4 else padded[..., None]
        kernel, dilation, stride = flat
        columns_NCP = F.unfold(plane.double(), kernel, dilation=dilation, stride=stride)
        yield columns_NCP.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def responses_GPO(layer: nn.Module, y: Tensor) -> Iterator[Tensor]:
    """The outputs of `layer`, one row per place, `(G, P, O)` in float64, some images at a time."""
    y_NPC = places_NPC(layer, real(y))
    G = getattr(layer, "groups", 1)
    for few in y_NPC.split(max(1, CHUNK // (8 * y_NPC[0].numel()))):
        yield few.double().flatten(0, 1).unflatten(1, (G, -1)).transpose(0, 1)


def places_NPC(layer: nn.Module, y: Tensor) -> Tensor:
    """The output of `layer` with its places in one dimension and its channels last; a view where that can be.

    >>> places_NPC(nn.Conv2d(3, 6, 3), torch.zeros(5, 6, 4, 7)).shape
    torch.Size([5, 28, 6])
    """
    if isinstance(layer, nn.Linear):
        return y.reshape(1 if y.dim() == 1 else len(y), -1, y.shape[-1])
    batched = y if y.dim() == len(layer.kernel_size) + 2 else y[None]
    return batched.flatten(2).transpose(1, 2)


def real(x: Tensor) -> Tensor:
    """`x` where there is float64: Apple's devices have none, so their tensors come to the CPU."""
    return x.cpu() if x.device.type == "mps" else x


def _padding(layer: nn.Module) -> list[int]:
    """Entries before and behind, the last axis first, as `F.pad` takes them."""
    if layer.padding == "valid":
        return [0, 0] * len(layer.kernel_size)
    if layer.padding == "same":
        reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [side for both in reversed(reach) for side in (both // 2, both - both // 2)]
    return [side for one in reversed(layer.padding) for side in (one, one)]


def _images(layer: nn.Module, x: Tensor) -> int:
    """Images whose patches fit the chunk; there are at most as many places as padded entries of a channel."""
    entries = torch.tensor(layer.kernel_size).prod().item() * x[0].numel() // max(1, _strided(layer))
    return max(1, CHUNK // (8 * max(1, entries)))


def _strided(layer: nn.Module) -> int:
    return int(torch.tensor(layer.stride).prod())
