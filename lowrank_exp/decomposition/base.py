"""What every decomposition offers: shapes in, factors and plain layers out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import is_whole
from lowrank_exp.decomposition.numbers import too_far, within_range
from lowrank_exp.network.cost import LAYERS, macs_of_factors, out_channels

Rank = int | tuple[int, ...]
FITS = ("whitened", "response", "relu")  # to data; see `lowrank_exp.reconstruct`
WHAT = ("macs", "weights", "bytes")  # what a layer costs, as far as its sizes tell


class Decomposition(ABC):
    """A way to write one layer's weight as a product of thinner layers.

    A decomposition has no state but its options (constructor arguments), so that `(name, options, rank)` in a file is
    enough to build the same shapes again. A rank is an integer from 1 to `full_rank(layer)`, or a tuple of such where
    a decomposition keeps several numbers.

    A class says about itself all that the rest of the library asks; no list elsewhere knows its name. A new one is a
    file with these, of which the first five methods have no default:

    ================================ =========================================================================
    `name`                           by which plans, files and configurations know it once its module is imported
    `refusal`, `full_rank`           which layers it takes, and up to which rank
    `skeleton`, `factorize`          the plain layers at a rank, without and with their weights
    `energies`, `kept_tables`        what ranks keep of the weight, for the rank policies; numbers that tell it
    `ladder`, `saves`                the ranks that policies choose from; what a lower rank saves
    `unfoldings`, `cuts`             the matrices whose ranks bound its own, for policies such as EVBMF
    `usable`                         of a rank with several numbers, what each leaves for the others to use
    `input_groups`                   as how many channel SVDs ALDS may compare it
    `factor_weights`, `rank_...`     what ranks cost, where that is not in proportion to the rank
    `fits`, `why_no_fit`             which fits to data its factors take
    `rank_left`                      the rank that pruning has left of its factors
    `first_axes`                     of a decomposition by SVD: the layout of its form with U, s and V trained
    ================================ =========================================================================

    Raises:
        ValueError: when a class is made, whose name is that of another one.
    """

    name: ClassVar[str]
    cuts: ClassVar[int] = 0  # how many matrices bound a rank, of a kernel with two axes
    why_no_unfoldings: ClassVar[str] = ""  # where there are no such matrices
    saves: ClassVar[tuple[str, ...]] = WHAT  # what a lower rank can lower
    ladder_follows_weights: ClassVar[bool] = False  # another ladder on the meta device, which knows no numbers
    why_no_fit: ClassVar[str] = ""  # to data, where `fits` is empty

    _named: ClassVar[dict[str, type["Decomposition"]]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" not in cls.__dict__:
            return
        if not isinstance(cls.name, str) or not cls.name:
            raise ValueError(
                f"{path_of(cls)}: the name of a decomposition is a word such as 'my_svd', got {cls.name!r}"
            )
        known = Decomposition._named.get(cls.name)
        # The same class may come again: its module was run a second time.
        if known is not None and path_of(known) != path_of(cls):
            raise ValueError(
                f"{path_of(cls)} has the name {cls.name!r}, which is that of {path_of(known)}: files could not tell "
                "them apart, so give it another"
            )
        Decomposition._named[cls.name] = cls

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options().items())})"

    def options(self) -> dict[str, Any]:
        """The constructor arguments, as plain values."""
        return {}

    @property
    def fits(self) -> frozenset[str]:
        """Which of `FITS` its factors take: `whitened`, where the chain is one of plain convolutions or linear layers.

        `response` and `relu` are for those whose last factor is a map of all responses of a group.
        """
        return frozenset({"whitened"})

    @property
    def input_groups(self) -> int | None:
        """Into how many groups of in channels it splits a layer, to cut a channel SVD of each at the same rank.

        None: it is not made of channel SVDs, and the policy `alds` does not compare it with those that are.
        """
        return None

    @abstractmethod
    def refusal(self, layer: nn.Module) -> str | None:
        """Why this decomposition cannot be applied to `layer`; None where it can."""

    @abstractmethod
    def full_rank(self, layer: nn.Module) -> Rank:
        """The highest rank, per group where the layer has groups."""

    @abstractmethod
    def skeleton(self, layer: nn.Module, rank: Rank, device: Any = None) -> nn.Module:
        """The plain layers that take the place of `layer` at `rank`, weights not set."""

    @abstractmethod
    def factorize(self, layer: nn.Module, rank: Rank) -> nn.Module:
        """The plain layers with the best weights at `rank`; `layer` itself is not changed."""

    def factorizer(self, layer: nn.Module, svds: Callable | None = None) -> Callable[[Rank], nn.Module]:
        """`factorize` of this layer at one rank after the other; what all ranks share is computed once.

        Args:
            layer: as for `factorize`.
            svds: where SVDs are kept (an `SVDStore`); None computes what is needed.
        """
        return partial(self.factorize, layer)

    @abstractmethod
    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """Share of the squared norm of the weight that each of `ranks` keeps, `(len(ranks),)`, in [0, 1], rising."""

    def kept_tables(self, layer: nn.Module) -> tuple[np.ndarray, ...]:
        """Numbers from which `kept_at` tells without the layer what any rank keeps, where a rank has several numbers.

        Without them, a rank off the ladder counts as keeping what the rung below it keeps.
        """
        return ()

    def kept_at(self, tables: Sequence[np.ndarray], ranks: Sequence[Rank]) -> np.ndarray:
        """`energies` from `kept_tables(layer)`; by default one table with an axis for every number of a rank."""
        return tables[0][tuple(np.asarray(ranks).T - 1)]

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        """The matrices whose ranks bound a rank, one for every group: singular values `(G, L)` and the longer side.

        As many as a rank has numbers, each for its own; of a rank with a single number the largest of all counts.
        """
        return ()

    def usable(self, layer: nn.Module, rank: Rank) -> Rank:
        """The lowest rank, in no number below `rank`, of which every number is of use beside the others."""
        return rank

    def ladder(self, layer: nn.Module) -> list[Rank]:
        """The ranks that a policy chooses from, cheapest first, `full_rank(layer)` last.

        The layer's sizes decide it, and where `ladder_follows_weights` its weight does too: then the ladder of a layer
        on the meta device has the same ends and other rungs between them.
        """
        return list(range(1, self.full_rank(layer) + 1))

    def factor_weights(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """Weights of every factor at `ranks`, `(len(ranks), factors)`; in proportion to the rank unless overridden."""
        return np.outer(np.asarray(ranks), _weights(self.skeleton(layer, 1, device="meta")))

    def rank_weights(self, layer: nn.Module, ranks: Sequence[Rank] | None = None) -> np.ndarray:
        """Weights of all factors together at `ranks` (those of the ladder by default), `(len(ranks),)`."""
        return self.factor_weights(layer, self.ladder(layer) if ranks is None else ranks).sum(axis=1)

    def rank_bytes(self, layer: nn.Module, ranks: Sequence[Rank] | None = None) -> np.ndarray:
        """Bytes of the factors' weights in a file at `ranks` (those of the ladder by default)."""
        return self.rank_weights(layer, ranks) * layer.weight.element_size()

    def rank_macs(
        self, layer: nn.Module, input_shapes: tuple[tuple[int, ...], ...], ranks: Sequence[Rank] | None = None
    ) -> np.ndarray:
        """MACs of all factors over all calls of the layer at `ranks` (those of the ladder by default)."""
        ranks = self.ladder(layer) if ranks is None else ranks
        lowest = self.skeleton(layer, ranks[0], device="meta")
        macs = np.sum([macs_of_factors(lowest, shape) for shape in input_shapes], axis=0)
        # A factor is applied at as many places at every rank: its MACs are in proportion to its weights.
        places = macs // np.array(_weights(lowest))
        return self.factor_weights(layer, ranks) @ places

    def check_rank(self, layer: nn.Module, rank: Any, layer_name: str = "layer") -> Rank:
        """`rank` as an int, or as a tuple of ints where the decomposition has several.

        Raises:
            ValueError: not an integer (or as many as there must be), below 1 or above the full rank.
        """
        full = self.full_rank(layer)
        if isinstance(full, int):
            return self._checked(rank, full, rank, full, layer_name)
        numbers = tuple(rank) if isinstance(rank, Sequence) and not isinstance(rank, str) else rank
        if not isinstance(numbers, tuple) or len(numbers) != len(full):
            raise ValueError(
                f"{layer_name}: rank must be {len(full)} integers for {self.name}, at most {list(full)}, got {rank!r}"
            )
        pairs = zip(numbers, full, strict=True)
        return tuple(self._checked(one, most, list(numbers), list(full), layer_name) for one, most in pairs)

    def _checked(self, one: Any, most: int, rank: Any, full: Any, layer_name: str) -> int:
        """One integer of a rank, within 1 and `most`; `rank` and `full` are what the message shows."""
        if not is_whole(one) and not isinstance(one, np.integer):
            raise ValueError(f"{layer_name}: rank must be an integer from 1 to {most} for {self.name}, got {rank!r}")
        if one < 1:
            raise ValueError(f"{layer_name}: rank {rank} is below 1; {self.name} takes ranks 1 to {full}")
        if one > most:
            raise ValueError(
                f"{layer_name}: rank {rank} is above the full rank {full}; {self.name} takes ranks 1 to {full} here"
            )
        return int(one)

    def rank_left(self, factors: nn.Module, rank: Rank) -> Rank:
        """The rank of `factors`, made at `rank`, now that pruning has taken channels between them.

        One number for every factor but the last: the maps that one of its groups puts out; of a single rank the first.
        """
        maps = [maps_of(layers) for factor in factors.children() if (layers := layers_of(factor))]
        return maps[0] if isinstance(rank, int) else tuple(maps[:-1])

    def check_weight(self, layer: nn.Module, layer_name: str = "layer") -> None:
        """Nothing, if there is something to decompose.

        Raises:
            ValueError: the weight has entries that are not finite, or so large or small that float64 cannot square it.
        """
        if not layer.weight.is_meta and not layer.weight.detach().isfinite().all():
            raise ValueError(
                f"{layer_name}: its weight has entries that are not finite, which {self.name} cannot factor"
            )
        if too_far(layer.weight):
            raise ValueError(
                f"{layer_name}: its weight reaches {float(layer.weight.detach().abs().max()):.4g}, and {self.name} "
                "takes weights from 1e-75 to 1e75: scale it"
            )


def layers_of(factor: nn.Module) -> list[nn.Module]:
    """The convolutions and linear layers of a factor, which may have been decomposed itself."""
    return [module for module in factor.modules() if isinstance(module, LAYERS)]


def maps_of(layers: Sequence[nn.Module]) -> int:
    """Channels that a factor of these layers puts out, of one of its groups."""
    return out_channels(layers[-1]) // getattr(layers[0], "groups", 1)


def path_of(kind: type) -> str:
    """A class by its import path."""
    return f"{kind.__module__}.{kind.__qualname__}"


def fill_(chain: nn.Sequential, weights: Sequence[Tensor], layer: nn.Module, bias: Tensor | None = None) -> nn.Module:
    """`chain` with `weights` in its layers (those that have one), in place; the bias of `layer` goes to the last.

    Gradients are wanted where `layer` wants them, and the mode (training or evaluation) is that of `layer`.

    Args:
        chain: a skeleton.
        weights: one for every layer of `chain` with a weight, of any floating type; scaled by powers of two where the
            type of the layer does not hold them as they are, see `within_range`.
        layer: the dense layer.
        bias: in the place of that of `layer`; needed where the chain's last layer orders its channels anew.
    """
    factors = [factor for factor in chain if hasattr(factor, "weight")]
    with torch.no_grad():
        for factor, weight in zip(factors, within_range(weights, layer.weight.dtype), strict=True):
            factor.weight.copy_(weight)
            factor.weight.requires_grad_(layer.weight.requires_grad)
        if layer.bias is not None:
            factors[-1].bias.copy_(layer.bias if bias is None else bias)
            factors[-1].bias.requires_grad_(layer.bias.requires_grad)
    return chain.train(layer.training)


def _weights(chain: nn.Module) -> list[int]:
    return [factor.weight.numel() for factor in chain if hasattr(factor, "weight")]
