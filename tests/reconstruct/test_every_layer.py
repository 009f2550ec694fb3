"""Layers of every setting, by every decomposition: their fits, and the errors that are measured of them."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lowrank_exp.reconstruct import layer_fit
from lowrank_exp.reconstruct.alternating import alternating
from lowrank_exp.reconstruct.available import fit_refusal
from lowrank_exp.reconstruct.layer_fit import LayerFit, Options
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.nonlinear import PAPER
from lowrank_exp.reconstruct.patches import patches_GPD
from lowrank_exp.reconstruct.reached import fitted_chain, response_error
from lowrank_exp.reconstruct.readers import Reader
from lowrank_exp.reconstruct.reduced_rank import CUTOFF
from support.cells import cells
from support.layer_cases import KINDS, LAYERS, filled, images


def low(kind, layer):
    ladder = kind.ladder(layer)
    return ladder[min(1, len(ladder) - 1)]


CASES = {
    f"{kind}, {name}": (KINDS[kind], layer, shape)
    for kind in KINDS
    for name, (layer, shape) in LAYERS.items()
    if KINDS[kind].refusal(layer) is None
    and not fit_refusal(layer, KINDS[kind], low(KINDS[kind], filled(layer)), "whitened")
}
every_case = cells("case", CASES, by=lambda case: CASES[case][0].name)


def inputs(shape):
    """Images of every case, and what a compressed network might make of them."""
    x = images((9, *shape[1:]) if len(shape) > 1 else shape).relu() + 0.1
    return x, x + 0.3 * images(x.shape, seed=2)


def missed(layer, chain, x, hat):
    """||y(x) - y^(x^)||^2 / ||y(x) - b||^2 of the outputs themselves."""
    silent = copy.deepcopy(layer)
    if silent.bias is not None:
        nn.init.zeros_(silent.bias)
    with torch.no_grad():
        return float((layer(x) - chain(hat)).square().sum() / silent(x).square().sum())


@every_case
def test_a_fit_is_better_than_the_weights_alone_and_its_error_is_that_of_the_outputs(case, monkeypatch):
    monkeypatch.setattr(layer_fit, "alternating", partial(alternating, sweeps=1))
    kind, layer, shape = CASES[case]
    layer, (x, hat) = filled(layer), inputs(shape)
    rank = low(kind, layer)
    plain, moments = kind.factorize(layer, rank), Moments()
    for rows in patches_GPD(layer, x):
        moments.add(rows)
    fitted = fitted_chain("layer", layer, kind, rank, plain, "whitened", moments)
    direct = [missed(layer, chain, x, x) for chain in (plain, fitted)]
    assert direct[1] <= direct[0] * (1 + 1e-9) + 1e-12
    for chain, wanted in zip((plain, fitted), direct, strict=True):
        assert response_error(layer, chain, moments) == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    sequel = LayerFit(
        "layer", layer, kind, rank, "whitened", True, Options(1, 1, 0, PAPER, CUTOFF, 2**20), Reader(relu=False), plain
    )
    with torch.no_grad():
        sequel.add(0, x, layer(x), hat=(hat, layer(hat)))
    assert missed(layer, sequel.chain(), x, hat) <= missed(layer, plain, x, hat) * (1 + 1e-9) + 1e-12


def test_which_layers_are_fitted():
    """Every kind of layer by the decompositions that leave a chain; transposed and three-dimensional ones too."""
    fitted = {name: {case.split(", ")[0] for case in CASES if case.endswith(f", {name}")} for name in LAYERS}
    everywhere = {"channel_svd", "tucker2", "tucker1", "tensor_train"}
    for name in ("3-D", "transposed 3-D"):
        assert fitted[name] >= everywhere
    for name in ("transposed", "transposed, groups, dilation", "groups", "depthwise with multiplier"):
        assert fitted[name] >= everywhere | {"spatial_svd", "cp"}
