"""From factors back to one dense layer.

Legend: G groups, O out channels and I in channels (of one group where G stands before them), C channels between two
factors, K kernel entries.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import type_before_parametrizations

from lowrank_exp.decomposition.convolution import TRANSPOSED, axes, kernel_GOIK, weight_like
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.network.cost import LAYERS

# Convolutions compose as polynomials multiply, which is what a transposed convolution does to a kernel.
_MULTIPLY = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def recompose(chain: nn.Sequential) -> nn.Module:
    """The one plain layer that does what a chain of factors does; `chain` is not changed.

    The inverse of `factorize` at full rank, up to rounding; at a lower rank the dense layer of the approximated weight,
    which can be factorized again by any decomposition. A bias of an inner factor goes through those behind it into the
    bias of the layer.

    Args:
        chain: what a decomposition left in the place of a layer: linear layers, or convolutions that have a kernel, a
            stride, padding and dilation each axis at one place only, with `Reorder` among them; or one layer.

    Raises:
        ValueError: other modules in the chain, an axis with settings at two places, or a bias of an inner factor that
            does not act alike everywhere: zero padding or a transposed convolution with a kernel is behind it.

    >>> layer = nn.Conv2d(4, 6, 3, stride=2)
    >>> from lowrank_exp.decomposition import SpatialSVD
    >>> again = recompose(SpatialSVD().factorize(layer, 12))
    >>> again.stride, torch.allclose(again.weight, layer.weight, atol=1e-6)
    ((2, 2), True)
    """
    parts = _parts(chain)
    factors = [part for part in parts if not isinstance(part, Reorder)]
    if not factors or not all(isinstance(factor, LAYERS) for factor in factors):
        raise ValueError(f"only chains of plain layers can be recomposed, got {chain}")
    bias_C = _bias(parts)
    if all(isinstance(factor, nn.Linear) for factor in factors):
        dense = _linear(factors, bias_C is not None)
    else:
        dense = _convolution(parts, factors, bias_C is not None)
        with torch.no_grad():
            dense.weight.copy_(weight_like(dense, _group(composed(parts, [f.weight for f in factors]), dense.groups)))
    if bias_C is not None:
        with torch.no_grad():
            dense.bias.copy_(bias_C)
    dense.weight.requires_grad_(any(factor.weight.requires_grad for factor in factors))
    return dense.train(chain.training)


def composed(parts: list[nn.Module], weights: list[Tensor]) -> Tensor:
    """The kernel `(O, I, *K)` over all channels that `weights` make in the place of those of `parts`; differentiable.

    Channels of different groups have zeros between them. For transposed convolutions too: then the kernel is that of
    `y[o, p s + k] += kernel[o, i, k] x[i, p]`, O and I as for the others.
    """
    first = next(part for part in parts if not isinstance(part, Reorder))
    one = torch.eye(first.in_channels, dtype=weights[0].dtype, device=weights[0].device)
    kernel_IMK = one.reshape(*one.shape, *(1,) * axes(first))
    remaining = iter(weights)
    for part in parts:
        if isinstance(part, Reorder):
            kernel_IMK = part(kernel_IMK)
            continue
        weight = next(remaining)
        if not isinstance(part, TRANSPOSED):
            weight = weight.unflatten(0, (part.groups, -1)).transpose(1, 2).flatten(0, 1)
        kernel_IMK = _MULTIPLY[axes(part)](kernel_IMK, weight, groups=part.groups)
    return kernel_IMK.transpose(0, 1)


def _parts(chain: nn.Module) -> list[nn.Module]:
    """The layers in order; a factor that was factorized again gives its own."""
    return [part for one in chain for part in _parts(one)] if isinstance(chain, nn.Sequential) else [chain]


def _bias(parts: list[nn.Module]) -> Tensor | None:
    """What the biases of all factors together add to the output, `(O,)`; None where no factor has one.

    Whether it is the same everywhere is decided by the settings, not by the numbers, so on the meta device as well.
    """
    bias_C = None
    for part in parts:
        if bias_C is not None:
            bias_C = _bias_behind(part, bias_C)
        if not isinstance(part, Reorder) and part.bias is not None:
            own_C = part.bias.detach()
            own_C = own_C if own_C.dtype == torch.float64 else own_C.float()
            bias_C = own_C if bias_C is None else bias_C + own_C
    return bias_C


def _bias_behind(part: nn.Module, map_C: Tensor) -> Tensor:
    """What `part`, its own bias left out, makes of maps that have one number everywhere: such maps again.

    Raises:
        ValueError: they have not.
    """
    if isinstance(part, Reorder):
        return part(map_C[None])[0]
    if isinstance(part, nn.Linear):
        return part.weight.detach().to(map_C.dtype) @ map_C
    if reason := _unevenness(part):
        raise ValueError(f"a bias before the last factor has no place in one dense layer: {reason} of {part} behind it")
    sums_GOI = kernel_GOIK(part).flatten(3).sum(dim=3).to(map_C.dtype)
    return (sums_GOI @ map_C.unflatten(0, (part.groups, -1, 1))).flatten()


def _unevenness(part: nn.Module) -> str | None:
    """Why maps that have one number everywhere lose this in a convolution; None where they keep it."""
    if isinstance(part, TRANSPOSED):
        pointwise = {*part.kernel_size, *part.stride} == {1} and not any(part.output_padding)
        return None if pointwise else "not every place gets it through the same entries of the kernel"
    if part.padding_mode != "zeros" or part.padding == "valid":
        return None
    widths = [size - 1 for size in part.kernel_size] if part.padding == "same" else part.padding
    return "it is less at the border, by the zero padding" if any(widths) else None


def _linear(factors: list[nn.Linear], bias: bool) -> nn.Linear:
    first, last = factors[0], factors[-1]
    with torch.no_grad():
        product = first.weight
        for factor in factors[1:]:
            product = factor.weight @ product
        place = {"device": product.device, "dtype": product.dtype}
        dense = skip_init(nn.Linear, first.in_features, last.out_features, bias=bias, **place)
        dense.weight.copy_(product)
    return dense


def _convolution(parts: list[nn.Module], factors: list[nn.Module], bias: bool) -> nn.Module:
    """A convolution with the settings of all factors together, weight not set."""
    first, last = factors[0], factors[-1]
    kind = type_before_parametrizations(next((f for f in factors if isinstance(f, TRANSPOSED)), first))
    names = ["kernel_size", "stride", "dilation", "padding"]
    if issubclass(kind, TRANSPOSED):
        names.append("output_padding")
    settings: dict[str, Any] = {name: _place(factors, name) for name in names}
    # In memory also for a network on the meta device: its buffers of integers are there.
    ones = [torch.ones(factor.weight.shape) for factor in factors]
    reached_I = composed([_in_memory(part) for part in parts], ones)[0].flatten(1).any(dim=1)
    modes = {factor.padding_mode for factor in factors} - {"zeros"}
    return skip_init(
        kind,
        first.in_channels,
        last.out_channels,
        **settings,
        groups=first.in_channels // int(reached_I.sum()),
        bias=bias,
        padding_mode=modes.pop() if modes else "zeros",
        device=first.weight.device,
        dtype=first.weight.dtype,
    )


def _in_memory(part: nn.Module) -> nn.Module:
    return Reorder(part.order.cpu()) if isinstance(part, Reorder) else part


def _place(factors: list[nn.Module], name: str) -> Any:
    """A setting per axis: that of the one factor that has it, or the neutral one."""
    neutral = 0 if "padding" in name else 1
    values = [getattr(factor, name) for factor in factors if hasattr(factor, name)]
    words = {value for value in values if isinstance(value, str)}
    if words:
        return words.pop() if len(words) == 1 else "same"
    settings = []
    for axis in zip(*values, strict=True):
        set_here = [value for value in axis if value != neutral]
        if len(set_here) > 1:
            raise ValueError(f"two factors have a {name} along the same axis: {set_here}")
        settings.append(set_here[0] if set_here else neutral)
    return tuple(settings)


def _group(kernel_OIK: Tensor, groups: int) -> Tensor:
    """The blocks on the diagonal, `(G, O, I, *K)`."""
    blocks = kernel_OIK.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    return torch.stack([blocks[g, :, g] for g in range(groups)])
