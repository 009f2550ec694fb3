"""Plain convolutions made after a given one: same place, other kernel, each axis' settings where they belong."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from lowrank_exp.decomposition.numbers import numbers

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def axes(layer: nn.Module) -> int:
    """Number of spatial axes: 1, 2 or 3."""
    return len(layer.kernel_size)


def convolution_like(
    layer: nn.Module,
    in_channels: int,
    out_channels: int,
    *,
    keep: tuple[bool, ...],
    bias: bool,
    groups: int | None = None,
    device: Any = None,
) -> nn.Module:
    """A convolution of the kind of `layer` which works along the axes marked in `keep` and not along the others.

    Kept axes have the kernel size, stride, padding, dilation and output padding of `layer`; the others have a kernel of
    1 that moves and pads nothing. The padding mode is that of `layer`, and so are the groups unless given. Because a
    kernel that factors along its axes is one convolution after the other, and because padding an axis commutes with
    working along another, the two parts together do what the whole does, for every setting. Its numbers are not set:
    nothing is drawn from a generator.
    """

    def placed(setting: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(value if kept else neutral for value, kept in zip(setting, keep, strict=True))

    settings: dict[str, Any] = {
        "kernel_size": placed(layer.kernel_size, 1),
        "stride": placed(layer.stride, 1),
        "dilation": placed(layer.dilation, 1),
        "padding": layer.padding if isinstance(layer.padding, str) else placed(layer.padding, 0),
        "groups": layer.groups if groups is None else groups,
        "padding_mode": layer.padding_mode,
        "bias": bias,
        "device": layer.weight.device if device is None else device,
        "dtype": layer.weight.dtype,
    }
    if isinstance(layer, TRANSPOSED):
        settings["output_padding"] = placed(layer.output_padding, 0)
    return skip_init(type(layer), in_channels, out_channels, **settings)


def plain_like(layer: nn.Module, device: Any = None) -> nn.Module:
    """A convolution or linear layer with the sizes and settings of `layer` and its type; its numbers are not set."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        place = {"device": layer.weight.device if device is None else device, "dtype": layer.weight.dtype}
        return skip_init(nn.Linear, layer.in_features, layer.out_features, bias=bias, **place)
    everywhere = (True,) * axes(layer)
    return convolution_like(layer, layer.in_channels, layer.out_channels, keep=everywhere, bias=bias, device=device)


def pointwise_like(
    layer: nn.Module,
    in_channels: int,
    out_channels: int,
    *,
    bias: bool,
    groups: int | None = None,
    device: Any = None,
) -> nn.Module:
    """A 1 x 1 convolution, with the groups of `layer` unless given; never a transposed one, which would be slower."""
    return skip_init(
        PLAIN[axes(layer)],
        in_channels,
        out_channels,
        kernel_size=1,
        groups=layer.groups if groups is None else groups,
        bias=bias,
        device=layer.weight.device if device is None else device,
        dtype=layer.weight.dtype,
    )


def kernel_GOIK(layer: nn.Module) -> Tensor:
    """The kernel of any convolution with its groups apart, `(G, O, I, *K)`, detached and in the type of `numbers`.

    O and I are the channels of one group; the weight of a transposed convolution, `(G I, O, *K)`, is turned round.
    """
    per_group = numbers(layer.weight).unflatten(0, (layer.groups, -1))
    return per_group.transpose(1, 2) if isinstance(layer, TRANSPOSED) else per_group


def weight_like(layer: nn.Module, kernel_GOIK: Tensor) -> Tensor:
    """A kernel `(G, O, I, *K)` in the layout of the weight of `layer`; undoes `kernel_GOIK`."""
    per_group = kernel_GOIK.transpose(1, 2) if isinstance(layer, TRANSPOSED) else kernel_GOIK
    return per_group.flatten(0, 1)
