"""Quant-Noise: a random part of the weights is quantized in every forward pass of a training.

Legend: R rows and W entries of a row of a weight as a matrix, D entries of a block, B blocks of a row, K centroids.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lowrank_exp.checks import fraction, one_of, whole
from lowrank_exp.decomposition.fitting.kmeans import kmeans, nearest
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.private import own_parameters
from lowrank_exp.regularizers.penalty import check_layers, choose_layers
from lowrank_exp.svd_form import SVDForm
from lowrank_exp.training.parts.part import AtWork, Fit, History, Part

RANGES = ("tensor", "channel")
POINTWISE = 4  # D of linear layers, convolutions with one entry and factors of an SVD form, as in product quantization
STREAM = 0x9A  # tells the draws from those of the fit's own seed


@dataclass(frozen=True, kw_only=True)
class QuantNoise(Part):
    r"""Which noise is put on weights in a training: an option of `fit_`.

    .. math:: \hat W_b = \phi(W_b) \text{ for } b \in J, \qquad \hat W_b = W_b \text{ else},
        \qquad \frac{\partial L}{\partial W_b} = \frac{\partial L}{\partial \hat W_b}

    Every block b of every weight is in J with probability p, drawn anew for each forward pass in training, for the
    backward pass too: gradients are those at the noisy weights, for all blocks (the straight-through estimator). The
    optimizer moves the weights below, which nothing else touches. There is no noise in validation.

    The weight of a convolution or linear layer is a matrix with one row per entry of its first axis (out channels,
    features), in natural order. A layer in SVD form has two, U and V, each with the rows of the thin layer that it
    becomes and the columns in the form's own order; s is left alone. Rows are cut into blocks of D entries, the last
    of which may be shorter. Other weights, biases and norms are left alone, and so are weights with a codebook.

    Args:
        phi: `int8`, `int4` or another number of bits from 2 to 16: the weight on a grid of so many bits over its range,
            0 included. `pq`: the nearest of K centroids, which k-means finds among the layer's blocks at the start
            of every epoch. `proxy`: 0, for `pq` at less cost.
        p: probability in [0, 1]; the authors take 0.05 to 0.2 for `pq` and `proxy`, 0.5 for `int8` and `int4`; 1 is
            quantization-aware training.
        block: D. None: 1 for `int`; else one kernel of a convolution, 4 entries of all other rows.
        range: of `int`: one for the `tensor`, or one for every row (`channel`).
        centroids: K of `pq`; in a small layer the largest power of two below a quarter of its blocks.
        iterations: of k-means, at most.
        layers: names or `re:` patterns; None: all convolutions, linear layers and SVD forms.

    Raises:
        ValueError: an option out of range, or one that is set and of no use to `phi`.

    Source: Fan, Stock, Graham, Grave, Gribonval, Jégou, Joulin 2021, "Training with quantization noise for extreme
    model compression", sections 3 and 4.

    Differs from the paper:
        1. Blocks are drawn independently, as in the authors' code; the paper draws a share p of them.
        2. The grid of `int` ends at its N bits, where the paper's formula may step over by one.

    Differs from the authors' code: that sets the blocks of `proxy` to 0 in the weights themselves, which are lost, and
    multiplies the others by 1 / (1 - p).

    >>> QuantNoise(phi="int4", p=0.5).bits, QuantNoise(phi="proxy", p=0.1).bits
    (4, None)
    """

    name: ClassVar[str] = "quant_noise"

    phi: str
    p: float
    block: int | None = None
    range: str = "tensor"
    centroids: int = 256
    iterations: int = 20
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.phi not in ("pq", "proxy") and self.bits is None:
            raise ValueError(f"quant_noise: phi is {self.phi!r}; allowed are int2 to int16, pq and proxy")
        fraction("p", self.p, f"quant_noise: p is {self.p!r}; allowed is a probability in [0, 1]", zero=True)
        for name in ("block", "centroids", "iterations"):
            value = getattr(self, name)
            if value is not None or name != "block":
                wrong = f"quant_noise: {name} is {value!r}; allowed is an integer, 1 or more"
                whole(name, value, message=wrong)
        allowed = f"allowed are {' and '.join(RANGES)}"
        one_of("range", self.range, RANGES, f"quant_noise: range is {self.range!r}; {allowed}")
        check_layers(self.layers, "quant_noise")
        of_no_use = {"range"} - ({"range"} if self.bits else set())
        of_no_use |= set() if self.phi == "pq" else {"centroids", "iterations"}
        for field in dataclasses.fields(self):
            if field.name in of_no_use and getattr(self, field.name) != field.default:
                raise ValueError(f"quant_noise: {field.name} is of no use to phi={self.phi}: leave it out")

    @property
    def bits(self) -> int | None:
        """N of `intN`; None for another phi."""
        match = re.fullmatch(r"int([2-9]|1[0-6])", str(self.phi))
        return int(match[1]) if match else None

    def at_work(self, fit: Fit) -> "NoisyWeights":
        return NoisyWeights(self, fit.network, fit.seed)

    def check(self, network: nn.Module) -> None:
        """Raise ValueError for a network without layers that get noise, or where `layers` names others or nothing."""
        self._weights(network)

    def _weights(self, network: nn.Module) -> list["_Weight"]:
        """Every weight once, in the order of the network, where it can be noisy."""
        layers = choose_layers(
            network, self.layers, _can_be_noisy, "quant_noise", "convolutions, linear layers and SVD forms"
        )
        found: dict[int, _Weight] = {}
        for layer in layers.values():
            names = ("U", "V") if isinstance(layer, SVDForm) else ("weight",)
            for name in names:
                entries = prod(getattr(layer, "kernel_size", ()))
                pointwise = POINTWISE if entries == 1 or name != "weight" else entries
                block = self.block or (1 if self.bits else pointwise)
                found.setdefault(id(getattr(layer, name)), _Weight(layer, name, block))
        return list(found.values())


class NoisyWeights(AtWork):
    """Quant-Noise at work in one fit.

    Args:
        option: which noise.
        network: whose weights get noise.
        seed: of the draws and of k-means; other numbers than the fit's own, which has the same seed.
    """

    def __init__(self, option: QuantNoise, network: nn.Module, seed: int) -> None:
        self.option, self.seed = option, seed
        self.weights = option._weights(network)
        self.generator = torch.Generator().manual_seed(seed ^ STREAM)
        self.generators = [self.generator]
        self.books: list[Tensor | None] = [None] * len(self.weights)

    def before_epoch(self, history: History) -> None:
        """Centroids of the weights as they are now: nothing that a checkpoint would have to keep."""
        if self.option.phi != "pq":
            return
        self.books = []
        for weight in self.weights:
            vectors_ND = _blocks(weight.rows().detach(), weight.block).flatten(0, 1)
            k = _size(self.option.centroids, len(vectors_ND))
            self.books.append(kmeans(vectors_ND, k, iterations=self.option.iterations, seed=self.seed))

    @contextmanager
    def around_pass(self, images: Tensor, first: bool) -> Iterator[None]:
        """Inside, for a forward pass and its backward pass, a part of the weights is quantized."""
        parameters = [weight.parameter for weight in self.weights]
        before = [parameter.detach().clone() for parameter in parameters]
        # One number decides the pass, so that the state to keep is that of a generator on the CPU on every device.
        drawn = torch.randint(2**31, (), generator=self.generator).item()
        generators = {device: torch.Generator(device).manual_seed(drawn) for device in {p.device for p in parameters}}
        try:
            with torch.no_grad():
                for weight, book_KD in zip(self.weights, self.books, strict=True):
                    generator = generators[weight.parameter.device]
                    weight.set_(noisy(weight.rows(), weight.block, self.option, generator, book_KD))
            yield
        finally:
            with torch.no_grad():
                for parameter, values in zip(parameters, before, strict=True):
                    parameter.copy_(values)


def noisy(
    weight_RW: Tensor, block: int, option: QuantNoise, generator: torch.Generator, book_KD: Tensor | None = None
) -> Tensor:
    """The weight `(R, W)` with a random part of its blocks quantized; the weight given is not changed.

    Args:
        weight_RW: float32 or float64.
        block: D.
        option: phi and p.
        generator: of the blocks, on the weight's device.
        book_KD: the centroids of `pq`.

    >>> option = QuantNoise(phi="proxy", p=0.5)
    >>> noisy(torch.ones(2, 6), 2, option, torch.Generator().manual_seed(1)).tolist()
    [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]]
    """
    R, W = weight_RW.shape
    B = ceil(W / block)
    in_J_RB = torch.rand(R, B, device=weight_RW.device, generator=generator) < option.p
    if book_KD is not None:
        blocks_RBD = _blocks(weight_RW, block).clone()
        blocks_RBD[in_J_RB] = book_KD[nearest(blocks_RBD[in_J_RB], book_KD)]
        return blocks_RBD.flatten(1)[:, :W]
    in_J_RW = in_J_RB if block == 1 else in_J_RB.repeat_interleave(block, dim=1)[:, :W]
    if option.bits is None:
        return weight_RW.masked_fill(in_J_RW, 0)
    return torch.where(in_J_RW, on_grid(weight_RW, option.bits, option.range), weight_RW)


def on_grid(weight_RW: Tensor, bits: int, range_: str = "tensor") -> Tensor:
    r"""The weight on a grid of 2^N steps over its range, or over that of every row (`channel`).

    .. math:: s = \frac{\max(W, 0) - \min(W, 0)}{2^N - 1}, \quad z = -2^{N-1} - \lfloor \min(W, 0) / s \rceil, \quad
        \phi(W) = (\mathrm{clip}(\lfloor W / s \rceil + z) - z) s

    >>> on_grid(torch.tensor([[-1.0, 0.3, 0.9, 2.0]]), bits=2).tolist()
    [[-1.0, 0.0, 1.0, 2.0]]
    """
    of_rows = range_ == "channel"
    low, high = weight_RW.aminmax(dim=1) if of_rows else weight_RW.aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    s = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(torch.float32).eps)
    z = (lowest - (low / s).round()).int()
    if of_rows:
        return torch.fake_quantize_per_channel_affine(weight_RW, s, z, 0, lowest, highest)
    return torch.fake_quantize_per_tensor_affine(weight_RW, s, z, lowest, highest)


@dataclass(frozen=True)
class _Weight:
    """A parameter of a layer as a matrix; looked up anew each time, as parameters move between devices."""

    layer: nn.Module
    name: str
    block: int

    @property
    def parameter(self) -> Tensor:
        return getattr(self.layer, self.name)

    def rows(self) -> Tensor:
        if self.name == "weight":
            return self.parameter.flatten(1)
        return self.parameter.mT.flatten(0, 1)

    def set_(self, values_RW: Tensor) -> None:
        parameter = self.parameter
        if self.name == "weight":
            parameter.copy_(values_RW.view(parameter.shape))
        else:
            parameter.copy_(values_RW.view(parameter.mT.shape).mT)


def _can_be_noisy(module: nn.Module) -> bool:
    return isinstance(module, SVDForm) or (isinstance(module, LAYERS) and "weight" in own_parameters(module))


def _blocks(weight_RW: Tensor, block: int) -> Tensor:
    """Blocks `(R, B, D)`, the last one of a row filled up with zeros."""
    R, W = weight_RW.shape
    B = ceil(W / block)
    return pad(weight_RW, (0, B * block - W)).reshape(R, B, block)


def _size(centroids: int, N: int) -> int:
    """K, or the largest power of two strictly below N / 4 where that is less, at least 1: the rule of the authors.

    >>> [_size(256, N) for N in (4, 9, 1024, 1025, 5000)]
    [1, 2, 128, 256, 256]
    """
    return min(centroids, 2 ** max(0, (ceil(N / 4) - 1).bit_length() - 1))
