"""Errors as the factors reach them, of the weights and of the responses, so that decompositions compare."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrank_exp.checks import whole
from lowrank_exp.decomposition import SVDDecomposition, decomposition_named
from lowrank_exp.decomposition.base import Rank
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.files.results import digest
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.rank.error_store import ErrorStore, of_rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.passes import image_batches
from lowrank_exp.reconstruct.patch_moments import patch_moments
from lowrank_exp.reconstruct.patches import patches_refusal
from lowrank_exp.reconstruct.reached import CLOSED_FORM, fitted_chain, response_error, weight_error

FEW = 16  # ladders of so many rungs are measured whole
LEAST = 0.05  # of the dense cost: rungs below are not worth many measurements
SMALLEST = 1e-12  # error that is told from none between rungs


def with_errors(
    layers: Mapping[str, LayerProfile],
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    fit: str | None = None,
    rungs: int = 12,
    positions: int | None = 64,
    seed: int = 0,
    memory: int = 2 * 2**30,
    store: SVDStore | None = None,
    folder: Path | None = None,
) -> dict[str, LayerProfile]:
    r"""The profiles with the errors that their factors reach, so that those of different decompositions compare.

    .. math:: \frac{||W - \hat W||^2}{||W||^2}, \qquad
        \frac{E||(W x + b) - (\hat W x + \hat b)||^2}{E||W x||^2}

    The first is that of the factors which `factorize` gives. What `energy` tells is that error for decompositions by
    SVD; for others it is a bound or an estimate, by which they look worse than they are. The second, with `batches`, is
    the response error over the patches x that the layer sees, of the factors as fitted by `fit`.

    A ladder of at most 16 ranks is measured at every rank. Of a longer one the first is, and up to `rungs` others which
    cost between 5 % and 100 % of the dense layer, each dearer than the last by the same factor; between them the error
    is interpolated, monotonely, in its logarithm over that of the rung. At full rank it is 0.

    Args:
        layers: as `profile` gives them for this model.
        model: the network; it is not changed.
        batches: images to see the responses on, of the training set: anything that gives tensors `(N, ...)` or tuples
            with them in front, and can be iterated several times. None: errors of the weights alone.
        fit: the fit that the factors will get: None, "whitened" or "response". Factors that do not take it are measured
            without one.
        rungs: measured of a long ladder.
        positions: random places of every image that a layer's patches are taken at; None: all.
        seed: draws them.
        memory: bytes that the moments of patches may take in one pass over the images; more layers take more passes.
        store: where SVDs are kept; None computes them.
        folder: where every error is stored as soon as it is measured, and looked up, by the weight, the decomposition,
            the fit, the network and the images; None stores nothing.

    Raises:
        ValueError: a fit without images, one that moments do not decide ("relu"), an option out of range, a layer whose
            patches cannot be had, or images that do not reach it.

    >>> from lowrank_exp.rank import profile
    >>> net = nn.Sequential(nn.Conv2d(4, 6, 3))
    >>> layers = profile(net, torch.zeros(1, 4, 8, 8), ["tucker2", "spatial_svd"])
    >>> reached = with_errors(layers, net)["0"].alternatives
    >>> bool((reached[0].error <= layers["0"].alternatives[0].error + 1e-6).all())
    True
    """
    _check(batches, fit, rungs, positions, memory)
    modules = {name: module for name, module in model.named_modules() if name in layers and layers[name].rungs}
    decides: list[Any] = []
    if batches is not None:
        _check_patches(modules)
        decides = [fit, positions, seed, *([tensors_digest(model), _digest_images(batches, seed)] if folder else [])]
    ladders = {
        name: [_Ladder(one, module, rungs, decides, store, ErrorStore(folder)) for one in layers[name].alternatives]
        for name, module in modules.items()
    }
    missing = {name: modules[name] for name, some in ladders.items() if any(one.missing for one in some)}
    seen: Iterable[tuple[str, Moments | None]] = ((name, None) for name in missing)
    if batches is not None:
        seen = patch_moments(model, missing, batches, positions=positions, seed=seed, memory=memory)
    for name, moments in seen:
        for ladder in ladders[name]:
            ladder.measure_(fit, moments)
    offers = {name: tuple(one.offer(responses=batches is not None) for one in some) for name, some in ladders.items()}
    return {n: replace(layer, offers=offers[n]) if n in offers else layer for n, layer in layers.items()}


def measured_rungs(layer: LayerProfile, most: int) -> list[int]:
    """The rungs at which errors are measured, rising, from 1: all of few, else the first and at most `most` others.

    >>> from lowrank_exp.rank import Cost, Costs
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


class _Ladder:
    """The rungs of a layer's only offer, and the errors that are known of them."""

    def __init__(
        self,
        profile: LayerProfile,
        layer: nn.Module,
        rungs: int,
        decides: Sequence[Any],
        store: SVDStore | None,
        kept: ErrorStore,
    ) -> None:
        """`decides`: what response errors depend on beside the layer; nothing where only weights are compared."""
        self.profile, self.layer, self.store, self.kept = profile, layer, store, kept
        offer = profile.offer
        self.kind = decomposition_named(offer.decomposition, **offer.options)
        self.by_svd = isinstance(self.kind, SVDDecomposition)
        self.exact = offer.energy[-1] >= 1 - 1e-9  # nothing is lost at the highest rank
        places = [] if self.by_svd and not decides else measured_rungs(profile, rungs)
        self.places = [place for place in places if place < profile.rungs or not self.exact]
        self.key = ""
        if kept.folder is not None:
            self.key = digest([tensors_digest(layer), self.kind.name, self.kind.options(), list(decides)])[:32]
        self.known = kept.read(self.key)

    @property
    def missing(self) -> list[Rank]:
        """The ranks that are to be measured still."""
        ranks = [self.profile.ranks[place - 1] for place in self.places]
        return [rank for rank in ranks if of_rank(rank) not in self.known]

    def measure_(self, fit: str | None, moments: Moments | None) -> None:
        """Measure what is missing, and keep each error as soon as it is known."""
        if not self.missing:
            return
        factors = self.kind.factorizer(self.layer, self.store)
        for rank in self.missing:
            with torch.no_grad():
                plain = factors(rank)
                errors = [weight_error(self.layer, plain)]
                if moments is not None:
                    chain = fitted_chain(self.profile.name, self.layer, self.kind, rank, plain, fit, moments)
                    errors.append(response_error(self.layer, chain, moments))
            self.known[of_rank(rank)] = errors
            self.kept.write(self.key, self.known)

    def offer(self, responses: bool) -> Offer:
        """The offer with its errors."""
        offer = self.profile.offer
        rows = [self.known[of_rank(offer.ranks[place - 1])] for place in self.places]
        weights = 1.0 - offer.energy if self.by_svd else self._between([row[0] for row in rows])
        return replace(
            offer, errors=weights, responses=self._between([row[1] for row in rows]) if responses else np.zeros(0)
        )

    def _between(self, measured: Sequence[float]) -> np.ndarray:
        """Errors at every rung from those at `places`."""
        from scipy.interpolate import PchipInterpolator  # slow to import

        count = self.profile.rungs
        places, values = list(self.places), list(measured)
        if self.exact:
            places, values = [*places, count], [*values, 0.0]
        if len(places) == count:
            return np.array(values)
        curve = PchipInterpolator(np.log(places), np.log(np.maximum(values, SMALLEST)))
        every = np.exp(curve(np.log(np.arange(1, count + 1))))
        every[np.array(places) - 1] = values
        return every


def _check(batches: Any, fit: str | None, rungs: int, positions: int | None, memory: int) -> None:
    if fit is not None and batches is None:
        raise ValueError(f"fit={fit!r} is a fit to data: pass batches of images, or fit=None for errors of the weights")
    if fit is not None and fit not in CLOSED_FORM:
        raise ValueError(f"fit={fit!r} is not one whose errors are measured: None, {' or '.join(CLOSED_FORM)}")
    if isinstance(batches, Iterator):
        raise ValueError("batches can be iterated only once; pass a list or a DataLoader, not a generator")
    whole("rungs", rungs, 2, f"rungs={rungs!r} is not a number of ranks to measure: at least 2")
    for name, value in (("positions", 1 if positions is None else positions), ("memory", memory)):
        whole(name, value, message=f"{name}={value!r} must be a whole number of at least 1")


def _check_patches(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        if refusal := patches_refusal(module):
            raise ValueError(
                f"{name}: its response error is not known, since {refusal}; leave it alone by "
                f"decomposition.layers ({{{name}: null}}), or compare the errors of weights (metric error)"
            )


def _digest_images(batches: Iterable[Any], seed: int) -> str:
    content = hashlib.sha256()
    for images in image_batches(batches, torch.device("cpu"), seed):
        content.update(f"{tuple(images.shape)} {images.dtype}".encode())
        content.update(images.contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()
