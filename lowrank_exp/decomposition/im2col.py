"""A convolution written out as matrix products, to look at and to test with; no plan uses it.

Legend: N images, G groups, O out channels and I in channels of one group, K all kernel entries, L places the kernel
is laid on (output pixels), R rank, D pixels of the input with all its channels, P those of the output.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.convolution import axes, kernel_GOIK
from lowrank_exp.decomposition.svd import SVD, wrong_kind

GIB = 2**30


@final
class Im2Col(nn.Module):
    r"""A convolution as unfold, matrix product, fold; at a rank with two thin matrices in the place of one.

    .. math:: y_{o,l} = \sum_{ik} W_{o,ik} x_{ik,l} + b_o, \qquad W \approx U_R S_R V_R

    `x_(ik),l` is the pixel that kernel entry k meets in channel i when the kernel lies on place l: each pixel is copied
    up to K times. The fold is a change of shape, since the places do not overlap in the output. Groups have a matrix
    each. The output is that of `layer`, whatever its settings; at a rank it is that of channel SVD at the same rank.
    It is slower than `layer`, which makes no such copy: measured in notebooks/01_what_low_rank_does.

    Args:
        layer: a Conv2d or Conv1d, unchanged; the weights are copied.
        rank: from 1 to min(O, I K) of one group; None keeps the matrix whole.

    Input `(N, G I, *size)` or `(G I, *size)`, output as that of `layer`.

    Raises:
        ValueError: a layer of another kind, or a rank out of range.

    Differs from the `im2colConv` of the blog post "low-rank decomposition, first steps":
        1. Dilation, groups and bias are kept; the post drops all three.
        2. An output side is (n + p - d (k - 1) - 1) // s + 1, p both paddings together, along each axis. The post takes
           (n + p - k + 1) // s of the height for both axes, which is right at stride 1 on square images only.
        3. The post folds with the convolution's stride although the places are neighbours then, and so raises at any
           stride above 1; its constructor reads a name that does not exist, and takes kernels for square.
        4. Padding costs no accuracy, as the post feared.

    >>> layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2)
    >>> x = torch.ones(1, 4, 9, 8)
    >>> torch.allclose(Im2Col(layer)(x), layer(x), atol=1e-6)
    True
    """

    def __init__(self, layer: nn.Conv2d, rank: int | None = None) -> None:
        super().__init__()
        _check_kind(layer, "im2col")
        matrix_GOM = kernel_GOIK(layer).flatten(2)
        factors = [matrix_GOM]
        if rank is not None:
            rank = ChannelSVD().check_rank(layer, rank)
            factors = list(SVD(*torch.linalg.svd(matrix_GOM, full_matrices=False)).split(rank))
        self.factors = nn.ParameterList(factor.to(layer.weight.dtype, copy=True) for factor in factors)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.settings = _Settings(layer)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == len(self.settings.kernel_size) + 1:
            return self(x[None])[0]
        columns_NML = self.settings.columns(x)
        y_NGOL = columns_NML.unflatten(1, (self.settings.groups, -1))
        for factor in reversed(self.factors):
            y_NGOL = factor @ y_NGOL
        y_NOL = y_NGOL.flatten(1, 2)
        if self.bias is not None:
            y_NOL = y_NOL + self.bias[:, None]
        return y_NOL.unflatten(2, self.settings.output_size(x.shape[2:]))

    def extra_repr(self) -> str:
        return " @ ".join(str(tuple(factor.shape)) for factor in self.factors)


def toeplitz(layer: nn.Conv2d, input_size: Sequence[int], memory_limit: int = GIB) -> nn.Linear:
    r"""A convolution as one linear layer from all pixels of the input to all pixels of the output.

    .. math:: T_{(o,l),(i,p)} = \sum_{k \,:\, q(l,k) = p} W_{o,i,k}

    q(l, k) is the input pixel that kernel entry k meets on place l; entries that meet zero padding add nothing, and
    with the other padding modes one pixel may be met several times. Each row holds one filter, each kernel entry stands
    L times in the matrix, and neighbouring rows are shifted copies: doubly blocked Toeplitz. Almost all of the P x D
    entries are zeros, and they are stored.

    Args:
        layer: a Conv2d or Conv1d; it is not changed.
        input_size: (H, W) of one image, (W,) for a Conv1d.
        memory_limit: bytes that the matrix may take; building it takes about twice as much for a moment.

    Returns:
        A linear layer with `toeplitz(layer, x.shape[2:])(x.flatten(1)) == layer(x).flatten(1)`, on the device and in
        the type of `layer`; each out channel's bias stands on all its pixels.

    Raises:
        ValueError: a layer of another kind, an input too small for the kernel or for its padding, a matrix above the
            limit.

    Differs from the `conv2d_to_linear` of the blog post on numerical analysis and machine learning:
        1. Padding shifts the places; the post counts the padded places but reads them unshifted, past the last row.
        2. Dilation, groups, padding modes and the bias are kept; the post has none of them.
        3. Pixel numbers are unfolded as the image would be and scattered at once; the post loops over all entries.

    >>> layer = nn.Conv1d(1, 1, 3, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    >>> toeplitz(layer, (5,)).weight.tolist()
    [[1.0, 2.0, 3.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0, 0.0], [0.0, 0.0, 1.0, 2.0, 3.0]]
    """
    _check_kind(layer, "toeplitz")
    settings, size = _Settings(layer), tuple(input_size)
    if len(size) != axes(layer):
        raise ValueError(f"input_size must be {axes(layer)} integers for a {type(layer).__name__}, got {input_size!r}")
    output_size = settings.output_size(size)
    if min(*size, *output_size) < 1:
        raise ValueError(f"an input of {size} is too small for {layer}: its output would be {output_size}")
    L, D = math.prod(output_size), layer.in_channels * math.prod(size)
    P = layer.out_channels * L
    needed = P * D * layer.weight.element_size()
    if needed > memory_limit:
        raise ValueError(
            f"the Toeplitz matrix from {(layer.in_channels, *size)} to {(layer.out_channels, *output_size)} has "
            f"{P} x {D} entries, {needed / GIB:.3g} GiB, above memory_limit={memory_limit / GIB:.3g} GiB: take a "
            "smaller input_size or raise memory_limit"
        )
    device, dtype = layer.weight.device, layer.weight.dtype
    # Pixel numbers from 1 on (exact in float64, which unfold takes), so that zero padding is pixel 0, cut off below.
    numbers = torch.arange(1, D + 1, dtype=torch.float64, device=device).view(1, layer.in_channels, *size)
    pixels_GML = settings.columns(numbers)[0].long().unflatten(0, (layer.groups, -1))
    kernel_GOM = layer.weight.detach().flatten(1).unflatten(0, (layer.groups, -1))
    G, O, M = kernel_GOM.shape
    matrix_GOLD = torch.zeros(G, O, L, D + 1, dtype=dtype, device=device)
    matrix_GOLD.scatter_add_(
        3,
        pixels_GML.transpose(1, 2)[:, None].expand(G, O, L, M),
        kernel_GOM[:, :, None].expand(G, O, L, M),
    )
    linear = nn.Linear(D, P, bias=layer.bias is not None, device="meta", dtype=dtype)
    linear.weight = nn.Parameter(matrix_GOLD.view(P, D + 1)[:, 1:].contiguous())
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.detach().repeat_interleave(L))
    return linear


class _Settings:
    """Where the kernel of a layer is laid, along one axis or two."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.groups, self.padding_mode = layer.groups, layer.padding_mode
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if layer.padding == "same":
            self.padding = [(r // 2, r - r // 2) for r in reach]
        elif layer.padding == "valid":
            self.padding = [(0, 0) for _ in reach]
        else:
            self.padding = [(p, p) for p in layer.padding]
        self.reach = reach

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        axis = zip(size, self.padding, self.reach, self.stride, strict=True)
        return tuple((n + sum(p) - r - 1) // s + 1 for n, p, r, s in axis)

    def columns(self, x: Tensor) -> Tensor:
        """What the kernel meets on every place, `(N, G I K, L)`, of `x` `(N, G I, *size)`."""
        last_axis_first = [side for pair in reversed(self.padding) for side in pair]
        if any(last_axis_first):
            x = F.pad(x, last_axis_first, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        flat = (1,) * (2 - len(self.kernel_size))  # a line of pixels is an image of height 1
        return F.unfold(
            x.reshape(*x.shape[:2], *flat, *x.shape[2:]),
            flat + self.kernel_size,
            dilation=flat + self.dilation,
            stride=flat + self.stride,
        )


def _check_kind(layer: nn.Module, name: str) -> None:
    reason = wrong_kind(layer, name, (nn.Conv2d, nn.Conv1d))
    if reason is not None:
        raise ValueError(reason)
