"""Plain convolutions made after a given one: same place, other kernel, each axis' settings where they belong."""

from typing import Any

from torch import nn

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
    device: Any = None,
) -> nn.Module:
    """A convolution of the kind of `layer` which works along the axes marked in `keep` and not along the others.

    Kept axes have the kernel size, stride, padding, dilation and output padding of `layer`; the others have a kernel of
    1 that moves and pads nothing. Groups and padding mode are those of `layer`. Because a kernel that factors along its
    axes is one convolution after the other, and because padding an axis commutes with working along another, the two
    parts together do what the whole does, for every setting.
    """

    def placed(setting: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(value if kept else neutral for value, kept in zip(setting, keep, strict=True))

    settings: dict[str, Any] = {
        "kernel_size": placed(layer.kernel_size, 1),
        "stride": placed(layer.stride, 1),
        "dilation": placed(layer.dilation, 1),
        "padding": layer.padding if isinstance(layer.padding, str) else placed(layer.padding, 0),
        "groups": layer.groups,
        "padding_mode": layer.padding_mode,
        "bias": bias,
        "device": layer.weight.device if device is None else device,
        "dtype": layer.weight.dtype,
    }
    if isinstance(layer, TRANSPOSED):
        settings["output_padding"] = placed(layer.output_padding, 0)
    return type(layer)(in_channels, out_channels, **settings)


def pointwise_like(
    layer: nn.Module, in_channels: int, out_channels: int, *, bias: bool, device: Any = None
) -> nn.Module:
    """A 1 x 1 convolution with the groups of `layer`; never a transposed one, which would do the same but slower."""
    return PLAIN[axes(layer)](
        in_channels,
        out_channels,
        kernel_size=1,
        groups=layer.groups,
        bias=bias,
        device=layer.weight.device if device is None else device,
        dtype=layer.weight.dtype,
    )
