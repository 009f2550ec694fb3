"""One layer's fit: its statistics, and its chain of factors from them.

Legend: G groups, O out channels of one group, K columns of a weight (in channels x kernel entries), R rank; y responses
of a layer to inputs x, y^ and x^ (`hat`) those in the network as compressed so far, y' = a y + c responses behind a
batch norm.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.network.cost import out_channels
from lowrank_exp.reconstruct.alternating import alternating, dense_GOD, error
from lowrank_exp.reconstruct.available import acts_on_responses
from lowrank_exp.reconstruct.difference import difference
from lowrank_exp.reconstruct.held_rows import HeldRows, moments_within, second_bytes
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.nonlinear import Schedule, relu_response
from lowrank_exp.reconstruct.patch_sums import patch_sums, patches_beside
from lowrank_exp.reconstruct.patches import responses_GPO
from lowrank_exp.reconstruct.readers import Reader
from lowrank_exp.reconstruct.response import linear_response
from lowrank_exp.reconstruct.samples import Sample
from lowrank_exp.reconstruct.weights import factors_of, weight_GOK
from lowrank_exp.reconstruct.whitened import target, whitened, whitened_by_responses

SMALLEST_SCALE = 1e-6  # of a batch norm, relative to its largest: below it a channel is treated as if it had this one


@dataclass(frozen=True)
class Options:
    """What a fit may be told besides its kind; see `fit_to_data`."""

    images: int
    positions: int
    seed: int
    schedule: Schedule
    cutoff: float
    memory: int


class LayerFit:
    """One layer's statistics, and its chain of factors from them."""

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        kind: Decomposition,
        rank: Rank,
        fit: str,
        asymmetric: bool,
        options: Options,
        reader: Reader,
        plain: nn.Module | None = None,
    ) -> None:
        """`plain`: the factors without a fit, where they are at hand."""
        self.name, self.layer, self.kind, self.rank = name, layer, kind, rank
        self.fit, self.asymmetric, self.options, self.reader, self.plain = fit, asymmetric, options, reader, plain
        if reader.a is not None and not reader.a.any():
            self.reader = Reader(relu=False)  # nothing comes through the batch norm: there is no error behind it
        self.by_patches = fit == "whitened" and (asymmetric or not acts_on_responses(kind))
        self.by_sample = fit == "relu" and self.reader.relu
        self.moments: Moments | HeldRows = Moments()
        if self.by_patches:
            self.moments = moments_within(options.memory, name, layer)
        self.change_GOD: Tensor | None = None  # the sum of W (x - x^) x^^T over the same places
        self.sample = Sample(options.images, options.positions, options.seed) if self.by_sample else None
        if self.bytes() > options.memory and not self.by_patches:
            raise ValueError(
                f"{name}: statistics of its {out_channels(layer):,} outputs take {self.bytes():,} bytes, and "
                f"memory={options.memory:,} is allowed; allow more memory, or leave the layer alone by a rule "
                f"({{{name}: null}})"
            )

    def bytes(self) -> int:
        """What its statistics take at most, while the data go by."""
        G = getattr(self.layer, "groups", 1)
        if self.by_sample:
            size = self.layer.weight.element_size()
            return self.options.images * self.options.positions * out_channels(self.layer) * size
        per_group = out_channels(self.layer) // G
        if not self.by_patches:
            return 8 * G * per_group**2
        change = 8 * self.layer.weight.numel() if self.asymmetric else 0
        return change + min(second_bytes(self.layer), self.options.memory)

    def add(self, first_image: int, x: Tensor, y: Tensor, hat: tuple[Tensor, Tensor] | None = None) -> None:
        """Count one call in: input and output, and (`hat`) the same in the network as compressed so far."""
        if self.sample is not None:
            if first_image < self.options.images:
                self.sample.add(self.layer, first_image, y, *(() if hat is None else hat[1:]))
            return
        if self.by_patches:
            self._add_patches(x, y, hat)
            return
        tensors = [y] if hat is None else [y, hat[1]]
        for rows in zip(*(responses_GPO(self.layer, tensor) for tensor in tensors), strict=True):
            self.moments.add(*map(self._without_bias, rows))

    def _add_patches(self, x: Tensor, y: Tensor, hat: tuple[Tensor, Tensor] | None) -> None:
        off = None if hat is None else difference(self.layer, (x, y), hat)
        seen = x if hat is None else hat[0]
        if isinstance(self.moments, HeldRows):
            for rows_GPD, off_GPO in patches_beside(self.layer, seen, off):
                self.moments.add(rows_GPD)
                self._add_change(None if off_GPO is None else off_GPO.mT @ rows_GPD)
            return
        for sums in patch_sums(self.layer, seen, off):
            self.moments.add_sums(sums.count, sums.rows, sums.products)
            self._add_change(sums.beside)

    def _add_change(self, change_GOD: Tensor | None) -> None:
        if change_GOD is not None:
            self.change_GOD = change_GOD if self.change_GOD is None else self.change_GOD.add_(change_GOD)

    def chain(self) -> nn.Module:
        """The factors; the statistics are given up."""
        self._check()
        if self.sample is not None:
            chain = self._of_map(*self._relu(self.sample))
        elif self.fit != "whitened":
            moments, W_GOK = self.moments, weight_GOK(self.layer, self.moments.mean_GD.device)
            chain = self._of_map(*linear_response(moments, W_GOK, self.rank, self.options.cutoff))
        else:
            chain = self._whitened()
        self.moments, self.sample, self.change_GOD = Moments(), None, None
        return chain

    def _without_bias(self, rows_GPD: Tensor) -> Tensor:
        """Responses without the bias where the bias is not to be fitted."""
        if self.fit != "whitened" or self.by_patches or self.layer.bias is None:
            return rows_GPD
        return rows_GPD - self.layer.bias.to(rows_GPD).reshape(len(rows_GPD), 1, -1)

    def _whitened(self) -> nn.Module:
        moments, cutoff = self.moments, self.options.cutoff
        W_GOK = weight_GOK(self.layer, moments.mean_GD.device)
        if isinstance(moments, Moments) and not self.by_patches:
            what_GOK = whitened_by_responses(W_GOK, moments.second_GDD, self.rank, cutoff)
            return factors_of(self.kind, self.layer, self.rank, what_GOK)
        T_GOK = W_GOK
        second = moments.second
        if self.change_GOD is not None:
            T_GOK = target(W_GOK, self.change_GOD / moments.count, second, moments.count, cutoff)
        if acts_on_responses(self.kind):
            return factors_of(self.kind, self.layer, self.rank, whitened(T_GOK, second, self.rank, cutoff))
        plain = self.kind.factorize(self.layer, self.rank) if self.plain is None else self.plain
        parts = list(copy.deepcopy(plain).to(W_GOK.device))
        weights = alternating(parts, _weights(plain, W_GOK), T_GOK, second)
        fitted = copy.deepcopy(plain)
        with torch.no_grad():
            for factor, weight in zip((f for f in fitted if hasattr(f, "weight")), weights, strict=True):
                factor.weight.copy_(weight)
        errors = [
            error(T_GOK, dense_GOD(parts, _weights(chain, W_GOK), len(W_GOK)), second) for chain in (fitted, plain)
        ]
        return fitted if errors[0] <= errors[1] else plain  # the rounding of the weights could make it worse

    def _relu(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """M and b of the layer's responses, found in the coordinates of the batch norm behind it: y' = a y + c."""
        y_GPO, hat_GPO = sample.rows_GPO(self.layer)
        G, W_GOK = len(y_GPO), weight_GOK(self.layer, y_GPO.device)
        a_GO = torch.ones_like(W_GOK[:, :, 0])
        c_GO = torch.zeros_like(a_GO)
        if self.reader.a is not None and self.reader.c is not None:
            a_GO = _safe(self.reader.a.to(a_GO)).reshape(G, -1)
            c_GO = self.reader.c.to(a_GO).reshape(G, -1)
        scaled = [rows_GPO * a_GO[:, None] + c_GO[:, None] for rows_GPO in (y_GPO, hat_GPO)]
        options = self.options
        M_GOO, b_GO = relu_response(*scaled, a_GO[:, :, None] * W_GOK, self.rank, options.schedule, options.cutoff)
        shifted_GO = (M_GOO @ c_GO[:, :, None])[:, :, 0] + b_GO - c_GO
        return M_GOO * a_GO[:, None, :] / a_GO[:, :, None], shifted_GO / a_GO

    def _of_map(self, M_GOO: Tensor, b_GO: Tensor) -> nn.Module:
        """The factors that answer M (W x + bias) + b."""
        if self.layer.bias is not None:
            bias_GO = self.layer.bias.detach().to(b_GO).reshape(b_GO.shape)
            b_GO = b_GO + (M_GOO @ bias_GO[:, :, None])[:, :, 0]
        what_GOK = M_GOO @ weight_GOK(self.layer, M_GOO.device)
        return factors_of(self.kind, self.layer, self.rank, what_GOK, b_GO.flatten())

    def _check(self) -> None:
        seen = self.moments if self.sample is None else self.sample
        if not seen.count:
            raise ValueError(f"{self.name}: no data reach it any more; can batches be iterated several times?")
        if not seen.finite() or (self.change_GOD is not None and not self.change_GOD.isfinite().all()):
            raise ValueError(f"{self.name}: the data reach it with numbers that are not finite; it cannot be fitted")


def sampled(layer_fits: list[LayerFit], images: int) -> bool:
    """Whether no fit needs more than the images so far."""
    return all(layer_fit.sample is not None and images >= layer_fit.options.images for layer_fit in layer_fits)


def _weights(chain: nn.Module, like: Tensor) -> list[Tensor]:
    return [part.weight.detach().to(like) for part in chain if hasattr(part, "weight")]


def _safe(a_O: Tensor) -> Tensor:
    """Scales away from zero, with their signs."""
    sign_O = torch.where(a_O < 0, -1.0, 1.0).to(a_O)
    return sign_O * a_O.abs().clamp(min=SMALLEST_SCALE * float(a_O.abs().max()))
