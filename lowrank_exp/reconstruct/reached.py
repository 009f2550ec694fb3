"""Errors that the factors of a layer reach: of its weight, and of its responses to what the network shows it.

Legend: G groups, O out channels of one group, D entries of a patch; W weight and b bias of the layer, What and b^ those
that its factors stand for, m and M mean and second moments of the patches.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.decomposition import recompose
from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.reconstruct.held_rows import HeldRows, times
from lowrank_exp.reconstruct.layer_fit import LayerFit, Options
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.nonlinear import PAPER
from lowrank_exp.reconstruct.readers import Reader
from lowrank_exp.reconstruct.reduced_rank import CUTOFF
from lowrank_exp.reconstruct.weights import weight_GOK

MEASURED = ("whitened", "response")  # fits that second moments of the patches decide


def weight_error(layer: nn.Module, chain: nn.Module) -> float:
    """||W - What||^2 / ||W||^2 of the factors `chain`; 0 for a layer of zeros.

    >>> from lowrank_exp.decomposition import LinearSVD
    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> round(weight_error(layer, LinearSVD().factorize(layer, 1)), 6)
    0.36
    """
    W_GOD, off_GOD, _ = _difference(layer, chain, torch.device("cpu"))
    squared = float(W_GOD.square().sum())
    return float(off_GOD.square().sum()) / squared if squared else 0.0


def response_error(layer: nn.Module, chain: nn.Module, moments: Moments | HeldRows) -> float:
    r"""Squared error of the responses of the factors `chain`, relative to the responses without bias.

    .. math:: \frac{E||(W x + b) - (\hat W x + \hat b)||^2}{E||W x||^2} \;=\;
        \frac{tr((W - \hat W) M (W - \hat W)^T)}{tr(W M W^T)} \text{ where } \hat b = b

    The mean of the responses is part of it: a fit that has a bias to carry it ("response") lowers the error by that,
    and one that leaves the bias as it is does not. 0 where the layer answers nothing.

    Args:
        layer: the dense layer.
        chain: its factors.
        moments: of its patches.
    """
    W_GOD, off_GOD, bias_GO = _difference(layer, chain, moments.mean_GD.device)
    lost = (times(off_GOD, moments.second) * off_GOD).sum()
    if bias_GO is not None:
        lost += 2 * (bias_GO * (off_GOD @ moments.mean_GD[:, :, None])[:, :, 0]).sum() + bias_GO.square().sum()
    total = float((times(W_GOD, moments.second) * W_GOD).sum())
    return max(float(lost), 0.0) / total if total else 0.0


def closed_form_errors(responses: Moments, fit: str) -> np.ndarray:
    r"""What `response_error` is after a fit in closed form, at the ranks 1 ... O of every group, `(O,)`.

    .. math:: \frac{\sum_{i > r} \lambda_i(S)}{tr(E[W x (W x)^T])}, \qquad
        S = E[W x (W x)^T] \text{ (whitened)}, \; Cov(W x) \text{ (response, whose bias carries the mean)}

    Args:
        responses: moments of W x, the responses without bias.
        fit: "whitened" or "response", of a decomposition whose last factor is a map of all responses.
    """
    S_GOO = responses.second_GDD if fit == "whitened" else responses.covariance_GDD()
    values_O = torch.linalg.eigvalsh((S_GOO + S_GOO.mT) / 2).clamp(min=0).sum(dim=0)  # rising
    total = float(responses.second_GDD.diagonal(dim1=1, dim2=2).sum())
    beyond_O = np.append(0.0, values_O.cumsum(0)[:-1].cpu().numpy())[::-1]
    return beyond_O / total if total else np.zeros(len(beyond_O))


def fitted_chain(
    name: str,
    layer: nn.Module,
    kind: Decomposition,
    rank: Rank,
    plain: nn.Module,
    fit: str,
    moments: Moments | HeldRows,
) -> nn.Module:
    """The factors that `fit_to_data` gives, from the moments of a layer's patches.

    Args:
        name: of the layer.
        layer: the dense layer.
        kind: the decomposition.
        rank: its rank.
        plain: `kind.factorize(layer, rank)`.
        fit: one of `MEASURED`, which the layer and the decomposition take.
        moments: of the patches.
    """
    options = Options(1, 1, 0, PAPER, CUTOFF, memory=2**62)  # what takes memory is made already
    one = LayerFit(name, layer, kind, rank, fit, False, options, Reader(relu=False), plain)
    if one.by_patches:
        one.moments = moments
    else:
        W_GOD = weight_GOK(layer, moments.mean_GD.device)
        bias_GO = None if fit == "whitened" else _bias_GO(layer, W_GOD)
        one.moments = moments.of_responses(W_GOD, bias_GO)
    return one.chain()


def _difference(layer: nn.Module, chain: nn.Module, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """W and W - What `(G, O, D)`; b - b^ `(G, O)` where the factors have a bias."""
    dense = recompose(chain if isinstance(chain, nn.Sequential) else nn.Sequential(chain))
    W_GOD = weight_GOK(layer, device)
    if layer.bias is None and dense.bias is None:
        return W_GOD, W_GOD - weight_GOK(dense, device), None
    bias_GO = _bias_GO(layer, W_GOD) - _bias_GO(dense, W_GOD)
    return W_GOD, W_GOD - weight_GOK(dense, device), bias_GO


def _bias_GO(layer: nn.Module, W_GOD: Tensor) -> Tensor:
    """The bias, or zeros."""
    return (
        torch.zeros_like(W_GOD[:, :, 0])
        if layer.bias is None
        else layer.bias.detach().to(W_GOD).reshape(W_GOD.shape[:2])
    )
