"""Where the training of an SVD form starts: dense weights, freshly drawn or given, and their SVD."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from lowrank_exp.decomposition import SVD, SVDDecomposition


def draw_layer(kind: type[nn.Module], *sizes: int, seed: int = 0, **settings: Any) -> nn.Module:
    """A dense layer with torch's usual start: the numbers it would draw after `torch.manual_seed(seed)`.

    >>> _ = torch.manual_seed(3)
    >>> torch.equal(draw_layer(nn.Linear, 4, 2, seed=3).weight, nn.Linear(4, 2).weight)
    True
    """
    layer = skip_init(kind, *sizes, **settings)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(layer.weight[0].numel())  # of fan in
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                numbers = torch.empty(parameter.shape, dtype=parameter.dtype)
                parameter.copy_(numbers.uniform_(-bound, bound, generator=generator))
    return layer


def orthonormal_svd(decomposition: SVDDecomposition, layer: nn.Module, rank: int, svd: SVD | None) -> SVD:
    """The SVD at `rank` with orthonormal vectors throughout.

    Of a matrix that lacks full rank the fast SVD leaves vectors at zero, which no gradient would ever move.
    """
    start = svd or decomposition.svd(layer, rank)
    start = SVD(start.U_GMR[:, :, :rank], start.S_GR[:, :rank], start.V_GRN[:, :rank])
    rounding = max(start.U_GMR.shape[1], start.V_GRN.shape[2]) * torch.finfo(start.S_GR.dtype).eps
    if (start.S_GR[:, -1] > rounding * start.S_GR[:, 0]).all():
        return start
    matrices_GMN = decomposition.matrices(layer).detach().to(start.S_GR.dtype)
    U_GMR, S_GR, V_GRN = torch.linalg.svd(matrices_GMN, full_matrices=False)
    return SVD(U_GMR[:, :, :rank], S_GR[:, :rank], V_GRN[:, :rank])
