"""What a layer sees and what it answers, one row per place: patches x and responses y.

Legend: N images, G groups, O out channels and I in channels of one group, K kernel entries, D = I K, P places (of a few
images at a time).
"""

import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.decomposition.convolution import TRANSPOSED

CHUNK = 2**26  # bytes of the rows that are made at a time


def row_length(layer: nn.Module) -> int:
    """D, the entries of a row.

    >>> row_length(nn.ConvTranspose2d(4, 6, 3, groups=2))
    18
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def patches_GPD(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The rows that the weight of `layer` is multiplied with, `(G, P, D)` in float64, some images at a time.

    Stride, padding (its mode too), dilation and groups are those of the layer, so with `weight_GOD` of the layer the
    products `patches_GPD @ weight_GOD.mT` are its responses less the bias. Of a transposed convolution a row is what
    one place of the output reads, with zeros for the entries of the kernel that meet no input there.

    Args:
        layer: a convolution or a linear layer.
        x: its input, with any leading dimensions where the layer is linear.

    >>> import torch
    >>> [rows.shape for rows in patches_GPD(nn.Conv2d(4, 6, 3, groups=2), torch.zeros(5, 4, 8, 8))]
    [torch.Size([2, 180, 18])]
    >>> next(patches_GPD(nn.ConvTranspose1d(1, 1, 2, stride=2), torch.tensor([[[3.0, 4.0]]])))[0].tolist()
    [[3.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, 4.0]]
    """
    x = real(x)
    if isinstance(layer, nn.Linear):
        rows_PD = x.reshape(-1, x.shape[-1])
        for some_PD in rows_PD.split(max(1, CHUNK // (8 * x.shape[-1]))):
            yield some_PD.double()[None]
        return
    axes = len(layer.kernel_size)
    places, kernel = [range(first, first + axes) for first in (3, 3 + axes)]
    x = x if x.dim() == axes + 2 else x[None]
    entries = _windows(layer, x[:1]).numel()  # of one image
    for few in x.split(max(1, CHUNK // (8 * max(1, entries)))):
        windows = _windows(layer, few.double()).unflatten(1, (layer.groups, -1))  # (N, G, I, *places, *kernel)
        if isinstance(layer, TRANSPOSED):  # entry k of its kernel is k steps behind the input, not before it
            windows = windows.flip(*kernel)
        yield windows.permute(1, 0, *places, 2, *kernel).reshape(layer.groups, -1, row_length(layer))


def responses_GPO(layer: nn.Module, y: Tensor) -> Iterator[Tensor]:
    """The outputs of `layer`, one row per place, `(G, P, O)` in float64, some images at a time."""
    y_NPC = places_NPC(layer, real(y))
    G = getattr(layer, "groups", 1)
    for few in y_NPC.split(max(1, CHUNK // (8 * y_NPC[0].numel()))):
        yield few.double().flatten(0, 1).unflatten(1, (G, -1)).transpose(0, 1)


def places_NPC(layer: nn.Module, y: Tensor) -> Tensor:
    """The output of `layer` with its places in one dimension and its channels last; a view where that can be.

    >>> import torch
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


def _windows(layer: nn.Module, x: Tensor) -> Tensor:
    """What every place of the output reads of every channel, `(N, C, *places, *kernel)`: a view of the padded input."""
    transposed = isinstance(layer, TRANSPOSED)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(_spread(layer, x) if transposed else x, padding_of(layer), mode=mode)
    steps = (1,) * len(layer.kernel_size) if transposed else layer.stride
    for axis, (size, gap, step) in enumerate(zip(layer.kernel_size, layer.dilation, steps, strict=True)):
        x = x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x


def _spread(layer: nn.Module, x: Tensor) -> Tensor:
    """The input of a transposed convolution with zeros between its places, as many as its stride leaves out."""
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)))
    spread[(..., *(slice(None, None, s) for s in layer.stride))] = x
    return spread


def padding_of(layer: nn.Module) -> list[int]:
    """Entries before and behind, the last axis first, as `F.pad` takes them; below 0 they are cut off."""
    if layer.padding == "valid":
        return [0, 0] * len(layer.kernel_size)
    reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    if layer.padding == "same":
        return [side for both in reversed(reach) for side in (both // 2, both - both // 2)]
    if isinstance(layer, TRANSPOSED):
        each = zip(reversed(reach), reversed(layer.padding), reversed(layer.output_padding), strict=True)
        return [side for both, cut, more in each for side in (both - cut, both - cut + more)]
    return [side for one in reversed(layer.padding) for side in (one, one)]
