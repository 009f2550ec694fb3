"""Fit the factors of decomposed layers to data, before any fine-tuning.

| decomposition                                  | whitened              | response    | relu        |
|------------------------------------------------|-----------------------|-------------|-------------|
| channel_svd (order kernel_first), linear_svd   | closed form           | closed form | alternating |
| other chains of plain layers: channel_svd      | one factor at a time, | none        | none        |
| (pointwise_first), spatial_svd, tucker2, cp ...| alternating           |             |             |
| a single layer; product_quantization           | none                  | none        | none        |

`Decomposition.fits` of each says which it has.

whitened: min E||W x - What x||^2 over the layer's input patches x; the bias stays. response: min E||y - (M y + b)||^2
over the layer's responses y, the rank of M bounded; gives the last factor a bias. relu: the same behind the ReLU that
reads the responses (and behind the batch norm between); gives the last factor a bias. Each of them is symmetric, or
asymmetric: inputs from the network as compressed so far, targets from the original one.

Every kind of layer has every fit of its decomposition: convolutions of one to three axes, transposed ones too, grouped
and depthwise ones, and linear layers. Where rows of inputs are needed (whitened: one factor at a time, or asymmetric),
they are `patches_GPD`; the others act on responses alone.
"""

from lowrank_exp.reconstruct.available import FITS, adds_bias, check_fit, fit_refusal
from lowrank_exp.reconstruct.chain_store import ChainStore
from lowrank_exp.reconstruct.fit import check_options, fit_to_data
from lowrank_exp.reconstruct.nonlinear import CODE, PAPER
from lowrank_exp.reconstruct.weights import with_bias

__all__ = [
    "CODE",
    "FITS",
    "PAPER",
    "ChainStore",
    "adds_bias",
    "check_fit",
    "check_options",
    "fit_refusal",
    "fit_to_data",
    "with_bias",
]
