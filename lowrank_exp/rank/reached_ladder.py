"""The ladder of one decomposition of a layer, and the errors that its factors reach at some of the rungs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrank_exp.decomposition import SVDDecomposition, decomposition_named
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.files.results import digest
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.rank.error_store import ErrorStore, of_rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.reconstruct.alternating import VERSION
from lowrank_exp.reconstruct.available import acts_on_responses, fit_refusal
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.reached import closed_form_errors, fitted_chain, response_error, weight_error

FEW = 16  # ladders of so many rungs are measured whole
LEAST = 0.05  # of the dense cost: rungs below are not worth many measurements
SMALLEST = 1e-12  # error that is told from none between rungs


def measured_rungs(layer: LayerProfile, most: int) -> list[int]:
    """The rungs at which errors are measured, rising, from 1: all of few, else the first and at most `most` others.

    >>> from lowrank_exp.rank import Cost, Costs, Offer
    >>> offer = Offer("channel_svd", range(1, 101), Costs(*[np.arange(1, 101) * 20] * 2))
    >>> measured_rungs(LayerProfile("a", "conv", Cost(1000, 1000), (offer,)), 6)
    [1, 3, 5, 9, 16, 28, 49]
    """
    if layer.rungs <= FEW:
        return list(range(1, layer.rungs + 1))
    what = layer.saves[0]
    share = getattr(layer.offer.costs, what) / getattr(layer.dense, what)
    inside = np.flatnonzero((share >= LEAST) & (share < 1))
    if not len(inside):
        inside = np.arange(layer.rungs)
    low, high = np.log(share[inside[[0, -1]]])
    wanted = np.linspace(low, high, most)
    nearest = np.abs(np.log(share[inside])[None] - wanted[:, None]).argmin(axis=1)
    return sorted({1, *(inside[nearest] + 1).tolist()})


class ReachedLadder:
    """The rungs of a layer's only offer, and what is known of them.

    Of a measured rung that is the error of the weight, with images that of the responses, and where the factors are
    fitted that of the responses after the fit. A fit in closed form is not made: its error is known at all rungs.

    Args:
        profile: with one offer.
        layer: the dense layer.
        kept: where errors are kept.
        rungs: to measure of a long ladder.
        fit: None, or one of `lowrank_exp.reconstruct.reached.MEASURED`.
        fits: to make at most, where they are made one factor at a time; None: at all measured rungs.
        decides: what response errors depend on beside the layer; nothing where only weights are compared.
    """

    def __init__(
        self,
        profile: LayerProfile,
        layer: nn.Module,
        kept: ErrorStore,
        *,
        rungs: int,
        fit: str | None = None,
        fits: int | None = None,
        decides: Sequence[Any] = (),
    ) -> None:
        self.profile, self.layer, self.kept, self.fit = profile, layer, kept, fit
        self.kind = decomposition_named(profile.offer.decomposition, **profile.options)
        self.by_svd = isinstance(self.kind, SVDDecomposition)
        full = profile.full_rank == self.kind.full_rank(layer)  # and not the end of a ladder that was cut
        self.exact = full and profile.offer.energy[-1] >= 1 - 1e-9  # nothing is lost there
        told = self.by_svd and not decides  # by singular values, at every rank
        self.closed = self.by_svd and fit is not None and acts_on_responses(self.kind)
        places = [] if told or self.closed else measured_rungs(profile, rungs)
        self.places = [place for place in places if place < profile.rungs or not self.exact]
        self.fitted = self._choose_fitted(fits)
        self.key = ""
        if kept.folder is not None:
            named = [profile.name, *decides] if decides else []
            if self.fitted and not acts_on_responses(self.kind):
                named.append(VERSION)
            self.key = digest([tensors_digest(layer), self.kind.name, self.kind.options(), named])[:32]
        self.known = kept.read(self.key)

    @property
    def missing(self) -> list[int]:
        """The places that are to be measured still."""
        if self.closed:
            return [place for place in range(1, self.profile.rungs + 1) if not self._row(place)]
        return [place for place in self.places if len(self._row(place)) < 1 + 2 * (place in self.fitted)]

    def tell_(self, responses: Moments) -> None:
        """Keep the errors of a fit in closed form, from the moments of the responses without bias."""
        if self.fit is not None and self.missing:
            errors = closed_form_errors(responses, self.fit)
            self.known = {of_rank(rank): [float(errors[rank - 1])] for rank in self.profile.ranks}
            self.kept.write(self.key, self.known)

    def measure_(self, moments: Moments | None, store: SVDStore | None) -> None:
        """Measure what is missing, and keep it as soon as it is known; with `moments` of the patches responses too."""
        if not (missing := self.missing):
            return
        factors = self.kind.factorizer(self.layer, store)
        for place in missing:
            rank = self.profile.ranks[place - 1]
            with torch.no_grad():
                plain = factors(rank)
                row = [weight_error(self.layer, plain)]
                if moments is not None:
                    row.append(response_error(self.layer, plain, moments))
                if moments is not None and self.fit is not None and place in self.fitted:
                    chain = fitted_chain(self.profile.name, self.layer, self.kind, rank, plain, self.fit, moments)
                    row.append(response_error(self.layer, chain, moments))
            self.known[of_rank(rank)] = row
            self.kept.write(self.key, self.known)

    def weights(self) -> np.ndarray:
        """Errors of the weight, `(rungs,)`."""
        if self.by_svd:
            return 1.0 - self.profile.offer.energy
        return self._between([self._row(place)[0] for place in self.places])

    def responses(self) -> np.ndarray:
        """Errors of the responses, after the fit, `(rungs,)`."""
        if self.closed:
            return np.array([self._row(place)[0] for place in range(1, self.profile.rungs + 1)])
        plain = np.array([self._row(place)[1] for place in self.places])
        if not self.fitted:
            return self._between(plain)
        rows = [self._row(place) for place in self.fitted]
        left = [max(row[2], SMALLEST) / max(row[1], SMALLEST) for row in rows]
        share = np.exp(np.interp(np.log(self.places), np.log(self.fitted), np.log(left)))
        fitted = {place: row[2] for place, row in zip(self.fitted, rows, strict=True)}
        return self._between([fitted.get(at, one) for at, one in zip(self.places, plain * share, strict=True)])

    def _choose_fitted(self, fits: int | None) -> list[int]:
        """The places at which the factors are fitted."""
        if self.fit is None or not self.places:
            return []
        if fit_refusal(self.layer, self.kind, self.profile.ranks[0], self.fit):
            return []
        if fits is None or len(self.places) <= fits:
            return self.places
        return [self.places[at] for at in np.linspace(0, len(self.places) - 1, fits).round().astype(int)]

    def _row(self, place: int) -> list[float]:
        return self.known.get(of_rank(self.profile.ranks[place - 1]), [])

    def _between(self, measured: Sequence[float]) -> np.ndarray:
        """Errors at every rung from those at `places`: their ratio to the estimate, which is known everywhere, lies on
        a monotone cubic.
        """
        from scipy.interpolate import PchipInterpolator  # slow to import

        count = self.profile.rungs
        places, values = [*self.places], [*measured]
        if self.exact:
            places, values = [*places, count], [*values, 0.0]
        if len(places) == count:
            return np.array(values)
        estimated = np.maximum(1.0 - self.profile.offer.energy, SMALLEST)
        at = np.array(places) - 1
        curve = PchipInterpolator(np.log(places), np.log(np.maximum(values, SMALLEST) / estimated[at]))
        every = estimated * np.exp(curve(np.log(np.arange(1, count + 1))))
        every[at] = values
        return every
