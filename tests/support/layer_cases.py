"""Layers of every setting, and what NumPy alone says about their weights.

Legend: G groups, O out channels and I in channels of one group, K kernel entries, H x W kernel, R rank.
"""

import copy

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from lowrank_exp.decomposition import (
    CP,
    Biclustering,
    ChannelSVD,
    GroupedChannelSVD,
    JaderbergScheme1,
    LinearSVD,
    Monochromatic,
    ProductQuantization,
    SliceWiseSVD,
    SpatialSVD,
    TensorTrain,
    Tucker1,
    Tucker2,
)
from support.cells import cells

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
PLANE = (2, 4, 9, 8)  # two images of four channels, higher than wide

# Every decomposition, with options that make it quick.
KINDS = {
    "channel_svd": ChannelSVD(),
    "channel_svd, pointwise first": ChannelSVD(order="pointwise_first"),
    "spatial_svd": SpatialSVD(),
    "spatial_svd, horizontal first": SpatialSVD(order="horizontal_first"),
    "linear_svd": LinearSVD(),
    "grouped_channel_svd": GroupedChannelSVD(groups=2),
    "slice_wise_svd": SliceWiseSVD(),
    "slice_wise_svd, dense": SliceWiseSVD(form="dense"),
    "jaderberg_scheme1": JaderbergScheme1(max_iterations=10),
    "tucker2": Tucker2(),
    "tucker1, in": Tucker1(mode="in"),
    "tucker1, out": Tucker1(mode="out"),
    "cp": CP(max_iterations=10),
    "cp, merged": CP(spatial="merged", max_iterations=10),
    "tensor_train": TensorTrain(),
    "monochromatic": Monochromatic(restarts=1),
    "biclustering, outer": Biclustering(restarts=1),
    "biclustering, svd": Biclustering(inner="svd", restarts=1),
    "product_quantization": ProductQuantization(pointwise_block=2, linear_block=1, centroids="float32", iterations=5),
}

# A rank of every decomposition for a 3 x 3 convolution from 6 to 8 channels, or of more.
RANKS = {
    "channel_svd": 3,
    "spatial_svd": 4,
    "grouped_channel_svd": 3,
    "slice_wise_svd": 1,
    "jaderberg_scheme1": 3,
    "tucker2": (4, 5),
    "tucker1": 4,
    "cp": 9,
    "tensor_train": (4, 6, 5),
    "monochromatic": 4,
    "biclustering": 3,
    "product_quantization": 16,
}

# A layer and the shape of its input.
LAYERS = {
    "1x1": (nn.Conv2d(4, 6, 1), PLANE),
    "3x3": (nn.Conv2d(4, 6, 3), PLANE),
    "3x3 without bias": (nn.Conv2d(4, 6, 3, bias=False), PLANE),
    "3x3 to fewer channels": (nn.Conv2d(4, 2, 3), PLANE),
    "3x3 to one channel": (nn.Conv2d(4, 1, 3), PLANE),
    "3x3 from one channel": (nn.Conv2d(1, 6, 3), (2, 1, 9, 8)),
    "1x5": (nn.Conv2d(4, 6, (1, 5)), PLANE),
    "5x1": (nn.Conv2d(4, 6, (5, 1)), PLANE),
    "2x4, even": (nn.Conv2d(4, 6, (2, 4), padding=1), PLANE),
    "stride": (nn.Conv2d(4, 6, 3, stride=2), PLANE),
    "stride and padding per axis": (nn.Conv2d(4, 6, 3, stride=(1, 3), padding=(2, 0)), PLANE),
    "padding per axis": (nn.Conv2d(4, 6, (3, 5), padding=(0, 2)), PLANE),
    "padding same": (nn.Conv2d(4, 6, (3, 4), padding="same"), PLANE),
    "padding same, dilated, reflected": (
        nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2), padding_mode="reflect"),
        PLANE,
    ),
    "padding valid": (nn.Conv2d(4, 6, 3, padding="valid"), PLANE),
    "circular": (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular"), PLANE),
    "reflect": (nn.Conv2d(4, 6, 3, padding=(2, 1), stride=2, padding_mode="reflect"), PLANE),
    "replicate": (nn.Conv2d(4, 6, 3, padding=(0, 2), padding_mode="replicate"), PLANE),
    "dilation per axis": (nn.Conv2d(4, 6, (2, 3), dilation=(3, 2)), PLANE),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), PLANE),
    "groups, stride, dilation": (nn.Conv2d(4, 8, 3, groups=4, stride=(2, 1), dilation=(1, 2), bias=False), PLANE),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), PLANE),
    "depthwise with multiplier": (nn.Conv2d(4, 12, (3, 2), groups=4), PLANE),
    "1-D": (nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 11)),
    "1-D, same, circular, groups": (
        nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular", groups=2),
        (2, 4, 11),
    ),
    "3-D": (nn.Conv3d(4, 6, (3, 1, 2), stride=(1, 2, 1), padding=(1, 0, 1), groups=2), (2, 4, 5, 6, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), PLANE),
    "transposed, output padding per axis": (
        nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 2), padding=(0, 1), output_padding=(2, 1)),
        PLANE,
    ),
    "transposed, groups, dilation": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=(1, 2), output_padding=1, bias=False),
        PLANE,
    ),
    "transposed 1-D": (nn.ConvTranspose1d(4, 6, 4, stride=2, output_padding=1), (2, 4, 7)),
    "transposed 3-D": (nn.ConvTranspose3d(4, 2, (1, 2, 3), stride=2, output_padding=(1, 0, 1)), (1, 4, 3, 4, 3)),
    "linear": (nn.Linear(7, 5), (3, 7)),
    "linear without bias": (nn.Linear(5, 7, bias=False), (3, 5)),
    "linear of three dimensions": (nn.Linear(7, 5), (2, 3, 7)),
    "linear of one dimension": (nn.Linear(7, 5), (7,)),
}
CONVOLUTIONS = {name: case for name, case in LAYERS.items() if not isinstance(case[0], nn.Linear)}
every_convolution = cells(("layer", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())


def decompositions_of(layer):
    if isinstance(layer, nn.Linear):
        return [LinearSVD()]
    return [ChannelSVD()] if len(layer.kernel_size) == 3 else [ChannelSVD(), SpatialSVD()]


CASES = {
    f"{decomposition.name}, {name}": (decomposition, layer, shape)
    for name, (layer, shape) in LAYERS.items()
    for decomposition in decompositions_of(layer)
}


@st.composite
def cases(draw):
    """A decomposition, a convolution with any settings that belong together, and the shape of its input."""
    axes = draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    groups = draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    settings = {"stride": per_axis(1, 3), "dilation": per_axis(1, 2), "padding": per_axis(0, 2)}
    if transposed:
        highest = [max(s, d) - 1 for s, d in zip(settings["stride"], settings["dilation"], strict=True)]
        settings["output_padding"] = tuple(draw(st.integers(0, high)) for high in highest)
    else:
        settings["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
        settings["padding"] = draw(st.sampled_from([settings["padding"], "same", "valid"]))
        if settings["padding"] == "same":
            settings["stride"] = (1,) * axes
    layer = (TRANSPOSED if transposed else CONV)[axes](
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        per_axis(1, 4),
        groups=groups,
        bias=draw(st.booleans()),
        **settings,
    )
    shape = (2, layer.in_channels, *per_axis(7, 8))
    return draw(st.sampled_from(decompositions_of(layer))), layer, shape


def filled(layer, seed=0, dtype=torch.float64):
    """A copy of `layer` with Gaussian weights."""
    rng = np.random.default_rng(seed)
    layer = copy.deepcopy(layer).to(dtype)
    for parameter in layer.parameters():
        parameter.data = torch.from_numpy(rng.standard_normal(parameter.shape)).to(dtype)
    return layer


def images(shape, seed=1, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def kernels(weight, layer):
    """The weight as an array `(G, O, I, *K)`."""
    weight = weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return weight[None]
    per_group = np.stack(np.split(weight, layer.groups))
    return np.swapaxes(per_group, 1, 2) if layer.transposed else per_group


def weight_of(kernels_GOIK, layer):
    """What `kernels` undoes."""
    if isinstance(layer, nn.Linear):
        return torch.from_numpy(kernels_GOIK[0].copy())
    per_group = np.swapaxes(kernels_GOIK, 1, 2) if layer.transposed else kernels_GOIK
    return torch.from_numpy(np.concatenate(per_group))


def singular_values(decomposition, layer):
    """NumPy's singular values of every group's unfolding, `(G, full rank)`."""
    found = []
    for kernel in kernels(layer.weight, layer):
        if isinstance(decomposition, SpatialSVD):
            kernel_OIHW = kernel.reshape(*kernel.shape[:3], -1)
            matrix = np.einsum("oihw->ihow", kernel_OIHW).reshape(kernel.shape[1] * kernel.shape[2], -1)
        else:
            matrix = kernel.reshape(len(kernel), -1)
        found.append(np.linalg.svd(matrix, compute_uv=False))
    return np.stack(found)


def rebuilt(decomposition, layer, chain):
    """The dense kernels `(G, O, I, *K)` that the two factors stand for, put together by einsum."""
    first, second = chain
    if isinstance(decomposition, LinearSVD):
        return (second.weight @ first.weight).detach().double().numpy()[None]
    first_GRIK = kernels(first.weight, first)
    second_GORK = kernels(second.weight, second)
    axes = first_GRIK.ndim - 3
    if isinstance(decomposition, SpatialSVD):
        if axes == 1:
            return np.einsum("grih,gorw->goih", first_GRIK, second_GORK)
        return np.einsum("grihx,goryw->goihw", first_GRIK, second_GORK)
    second_GOR = second_GORK.reshape(second_GORK.shape[:3])
    return np.einsum("gri...,gor->goi...", first_GRIK, second_GOR)


def with_kernels(layer, kernels_GOIK):
    """A copy of `layer` with other weights."""
    layer = copy.deepcopy(layer)
    layer.weight.data = weight_of(kernels_GOIK, layer).to(layer.weight.dtype)
    return layer


def relative(got, wanted):
    scale = np.linalg.norm(np.asarray(wanted))
    return float(np.linalg.norm(np.asarray(got) - np.asarray(wanted)) / (scale or 1.0))
