"""Codebook: a weight whose blocks are all taken from a few centroids, as a parametrization of torch's own.

Legend: N blocks of a weight, K centroids, D entries of a block, B bits of an index.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrize import register_parametrization

from lowrank_exp.decomposition.fitting.kmeans import means

ROUNDING = 0.01  # of the norm of a codebook, as much as its type in a file may change


class Codebook(nn.Module):
    r"""Parametrize a weight by centroids: block n of the weight, in natural order, is centroid `indices[n]`.

    .. math:: W = (c_{i_1}, c_{i_2} \dots c_{i_N})

    `with_codebook_(layer, Codebook(layer.weight.shape, D, K))`, a `register_parametrization` that scripts know, leaves
    the centroids `(K, D)` as the trained parameter, and the indices, `index_bits(K)` bits each, as a buffer of bytes.
    Unpacked they are kept for the next call, beside the state, four bytes each; compiled and exported graphs unpack
    them anew, so that an exported file has the packed ones; in ONNX, layers of few blocks have their whole weight.
    `remove_parametrizations(layer, "weight")` gives the plain layer. Setting the weight keeps the indices and makes
    every centroid the mean of its blocks, which is the nearest weight that these indices can give.

    Args:
        shape: of the weight.
        block: D, which divides the last axes of the weight together.
        size: K.
        gradient: that of a centroid: the `sum` over its blocks, which is the gradient of the loss, or their `mean`.
        stored: type of the centroids in a file; see `stored_state` and `round_codebooks_`.
        device: where the indices lie.

    >>> layer = nn.Linear(8, 2, bias=False)
    >>> book = Codebook(layer.weight.shape, block=4, size=3)
    >>> book.assign_(torch.tensor([2, 0, 0, 2]))
    >>> book(torch.tensor([[0.0] * 4, [1.0] * 4, [2.0] * 4]))[0].tolist(), book.indices.tolist()
    ([2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0], [130])
    """

    __jit_ignored_attributes__ = ("_unpacked",)

    def __init__(
        self,
        shape: Sequence[int],
        block: int,
        size: int,
        gradient: Literal["sum", "mean"] = "sum",
        stored: torch.dtype = torch.float16,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.shape, self.block, self.size, self.bits = tuple(shape), block, size, index_bits(size)
        self.gradient, self.stored = gradient, stored
        self.blocks = torch.Size(shape).numel() // block
        self.register_buffer("indices", _no_bytes(self.blocks, self.bits, device))
        self._unpacked = None  # which bytes, and what they hold

    def forward(self, centroids_KD: Tensor) -> Tensor:
        weight_ND = F.embedding(self.unpacked(), centroids_KD, scale_grad_by_freq=self.gradient == "mean")
        return weight_ND.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The centroids `(K, D)` nearest to `weight` under the indices as they are; 0 where an index is not used."""
        if weight.is_meta:
            return weight.new_empty(self.size, self.block)
        return means(weight.reshape(-1, self.block), self.unpacked().long(), self.size)[0].to(weight.dtype)

    def assign_(self, indices_N: Tensor) -> None:
        """Give block n the centroid `indices_N[n]`, in place."""
        self.indices.copy_(pack(indices_N, self.bits))
        self._unpacked = None

    def unpacked(self) -> Tensor:
        """The centroid of every block, `(N,)` int32."""
        if torch.jit.is_scripting() or torch.compiler.is_compiling():
            return unpack(self.indices, self.bits, self.blocks)
        if self._unpacked is None or self._unpacked[0] is not self.indices:  # moved to another device, say
            self._unpacked = (self.indices, unpack(self.indices, self.bits, self.blocks))
        return self._unpacked[1]

    def extra_repr(self) -> str:
        return f"{self.blocks} blocks of {self.block} from {self.size} centroids"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._unpacked = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": None}


def with_codebook_(layer: nn.Module, book: Codebook) -> nn.Module:
    """Parametrize the weight of `layer` by `book`, in place.

    torch's own parametrizations raise in a TorchScript; there the weight is read from the book itself.
    """
    register_parametrization(layer, "weight", book)
    kind = type(layer)  # of this layer alone: torch has made it to hold the property
    whole = kind.weight

    def weight(self: nn.Module) -> Tensor:
        if torch.jit.is_scripting():
            return self.parametrizations.weight[0](self.parametrizations.weight.original)
        return whole.fget(self)

    kind.weight = property(weight, whole.fset)
    return layer


def index_bits(size: int) -> int:
    """Bits that tell `size` centroids apart.

    >>> [index_bits(size) for size in (1, 2, 3, 256, 257)]
    [0, 1, 2, 8, 9]
    """
    return (size - 1).bit_length()


def pack(indices_N: Tensor, bits: int) -> Tensor:
    """`bits` bits of every index, the lowest first, one after the other in `ceil(N bits / 8)` bytes."""
    stream = torch.zeros(8 * len(_no_bytes(len(indices_N), bits)), dtype=torch.uint8, device=indices_N.device)
    bits_NB = stream[: len(indices_N) * bits].view(len(indices_N), bits)
    for b in range(bits):
        bits_NB[:, b] = (indices_N >> b) & 1
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=stream.device)
    return (stream.view(-1, 8) * places).sum(dim=1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` indices that `pack` put into bytes, int32.

    By arithmetic on int32 alone, which scripts and ONNX know as well; bitwise operations on bytes they do not.
    """
    places = 2 ** torch.arange(max(8, bits), dtype=torch.int32, device=packed.device)
    stream = torch.div(packed.int()[:, None], places[:8], rounding_mode="floor").flatten() % 2
    return (stream[: count * bits].view(count, bits) * places[:bits]).sum(dim=1, dtype=torch.int32)


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` with every codebook in the type it is stored in; it loads as any other.

    Raises:
        ValueError: a centroid beyond the range of that type.
    """
    state = model.state_dict()
    for key, _, stored in _codebooks(model):
        state[key] = as_stored(state[key], stored)
    return state


def round_codebooks_(model: nn.Module) -> nn.Module:
    """Round every codebook of `model` to what a file keeps of it, in place: after a fine-tune, before it is judged.

    Raises:
        ValueError: a centroid beyond the range of the stored type.
    """
    with torch.no_grad():
        for _, centroids_KD, stored in _codebooks(model):
            centroids_KD.copy_(as_stored(centroids_KD, stored))
    return model


def as_stored(centroids_KD: Tensor, stored: torch.dtype) -> Tensor:
    """Centroids in the type of a file.

    Raises:
        ValueError: one of them is beyond the range of that type, or all are so small that it changes them by more than
            1 % of their norm.
    """
    rounded_KD = centroids_KD.to(stored)
    if rounded_KD.is_meta:
        return rounded_KD
    name, limits = str(stored).removeprefix("torch."), torch.finfo(stored)
    reached = f"centroids reach {centroids_KD.abs().max():.4g}" if centroids_KD.numel() else ""
    if not rounded_KD.isfinite().all():
        raise ValueError(f"{reached}, but {name} ends at {limits.max:.4g}: store them as float32")
    exact_KD = centroids_KD.double()
    if not (rounded_KD.double() - exact_KD).norm() <= ROUNDING * exact_KD.norm():
        raise ValueError(f"{reached}, but {name} begins at {limits.smallest_normal:.4g}: store them as float32")
    return rounded_KD


def _codebooks(model: nn.Module) -> list[tuple[str, Tensor, torch.dtype]]:
    """Key in the state dict, centroids and stored type of every codebook."""
    books = []
    for name, chain in model.named_modules():
        if isinstance(chain, nn.utils.parametrize.ParametrizationList) and isinstance(chain[0], Codebook):
            books.append((f"{name}.original", chain.original, chain[0].stored))
    return books


def _no_bytes(count: int, bits: int, device: Any = None) -> Tensor:
    return torch.zeros(-(-count * bits // 8), dtype=torch.uint8, device=device)
