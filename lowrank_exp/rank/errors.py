"""Errors as the factors reach them, of the weights and of the responses, so that decompositions compare."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrank_exp.checks import whole
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.rank.error_store import ErrorStore
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer
from lowrank_exp.rank.reached_ladder import ReachedLadder
from lowrank_exp.reconstruct.passes import image_batches
from lowrank_exp.reconstruct.patch_moments import patch_moments
from lowrank_exp.reconstruct.reached import MEASURED
from lowrank_exp.reconstruct.weights import weight_GOK


def with_errors(
    layers: Mapping[str, LayerProfile],
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    fit: str | None = None,
    rungs: int = 12,
    fits: int | None = 6,
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
    cost between 5 % and 100 % of the dense layer, each dearer than the last by the same factor; between them the
    ratio to what `energy` tells is interpolated, in its logarithm over that of the rung. At full rank the error is 0.

    Args:
        layers: as `profile` gives them for this model.
        model: the network; it is not changed.
        batches: images to see the responses on, of the training set: anything that gives tensors `(N, ...)` or tuples
            with them in front, and can be iterated several times. None: errors of the weights alone.
        fit: the fit that the factors will get: None, "whitened" or "response". Factors that do not take it are measured
            without one.
        rungs: measured of a long ladder.
        fits: made for a ladder whose factors are fitted one at a time: at so many of the measured rungs; between them
            the share of the error that a fit leaves is interpolated. None: at all. A fit in closed form tells its error
            at every rank.
        seed: of a loader that draws its order.
        memory: bytes that the moments of patches may take in one pass over the images; more layers take more passes. Of
            a layer that needs more by itself the patches are held, while they take no more.
        store: where SVDs are kept; None computes them.
        folder: where every error is stored as soon as it is measured, and looked up, by the weight, the decomposition,
            the fit, the network and the images; None stores nothing.

    Raises:
        ValueError: a fit without images, one that moments do not decide ("relu"), an option out of range, a
            layer that the images do not reach, or one whose moments and patches find no room.

    >>> from lowrank_exp.rank import profile
    >>> net = nn.Sequential(nn.Conv2d(4, 6, 3))
    >>> layers = profile(net, torch.zeros(1, 4, 8, 8), ["tucker2", "spatial_svd"])
    >>> reached = with_errors(layers, net)["0"].alternatives
    >>> bool((reached[0].error <= layers["0"].alternatives[0].error + 1e-6).all())
    True
    """
    _check(batches, fit, rungs, fits, memory)
    modules = {name: module for name, module in model.named_modules() if name in layers and layers[name].rungs}
    decides: list[Any] = []
    if batches is not None:
        decides = [fit, seed, *([tensors_digest(model), _digest_images(batches, seed)] if folder else [])]
    kept, how = ErrorStore(folder), {"rungs": rungs, "fit": fit, "fits": fits, "decides": decides}
    ladders = {
        name: [ReachedLadder(one, module, kept, **how) for one in layers[name].alternatives]
        for name, module in modules.items()
    }
    missing = {name: modules[name] for name, some in ladders.items() if any(one.missing for one in some)}
    if batches is None:
        for name in missing:
            for ladder in ladders[name]:
                ladder.measure_(None, store)
    else:
        _measure_responses_(ladders, missing, model, batches, seed, memory, store)
    offers = {name: tuple(_told(one, batches is not None) for one in some) for name, some in ladders.items()}
    return {n: replace(layer, offers=offers[n]) if n in offers else layer for n, layer in layers.items()}


def _measure_responses_(
    ladders: Mapping[str, list[ReachedLadder]],
    missing: Mapping[str, nn.Module],
    model: nn.Module,
    batches: Iterable[Any],
    seed: int,
    memory: int,
    store: SVDStore | None,
) -> None:
    """What is missing of some layers; of those whose fits are all in closed form, responses alone are looked at."""
    closed = {name for name in missing if all(one.closed for one in ladders[name] if one.missing)}
    seen = patch_moments(model, missing, batches, seed=seed, memory=memory, of_responses=closed)
    for name, moments in seen:
        for ladder in ladders[name]:
            if not ladder.closed:
                ladder.measure_(moments, store)
            elif ladder.missing:
                W_GOD = weight_GOK(missing[name], moments.mean_GD.device)
                ladder.tell_(moments if name in closed else moments.of_responses(W_GOD))


def _told(ladder: ReachedLadder, responses: bool) -> Offer:
    return replace(
        ladder.profile.offer, errors=ladder.weights(), responses=ladder.responses() if responses else np.zeros(0)
    )


def _check(batches: Any, fit: str | None, rungs: int, fits: int | None, memory: int) -> None:
    if fit is not None and batches is None:
        raise ValueError(f"fit={fit!r} is a fit to data: pass batches of images, or fit=None for errors of the weights")
    if fit is not None and fit not in MEASURED:
        raise ValueError(f"fit={fit!r} is not one whose errors are measured: None, {' or '.join(MEASURED)}")
    if isinstance(batches, Iterator):
        raise ValueError("batches can be iterated only once; pass a list or a DataLoader, not a generator")
    whole("rungs", rungs, 2, f"rungs={rungs!r} is not a number of ranks to measure: at least 2")
    for name, value, least in (("fits", fits, 2), ("memory", memory, 1)):
        if value is not None:
            whole(name, value, least, f"{name}={value!r} must be a whole number of at least {least}")


def _digest_images(batches: Iterable[Any], seed: int) -> str:
    content = hashlib.sha256()
    for images in image_batches(batches, torch.device("cpu"), seed):
        content.update(f"{tuple(images.shape)} {images.dtype}".encode())
        content.update(images.contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()
