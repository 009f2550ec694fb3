"""Profiles made by hand, without a network."""

from dataclasses import fields, replace

import numpy as np

from lowrank_exp.rank import Cost, Costs, LayerProfile, Offer

OF_LAYER = {field.name for field in fields(LayerProfile)}


def by_hand(name, kind, macs, weights, decomposition=None, rank_macs=(), rank_weights=(), values=None, **more):
    """A profile with one offer, or none; its ranks are 1, 2 ... unless `ranks` says other ones."""
    of_offer = {key: more.pop(key) for key in list(more) if key not in OF_LAYER}
    made = LayerProfile(name, kind, Cost(macs, weights), **more)
    if decomposition is None:
        return made
    of_offer = {"ranks": range(1, len(rank_macs) + 1), **of_offer}
    values = np.zeros((1, 0)) if values is None else values
    return replace(
        made, offers=(Offer(decomposition, costs=Costs(rank_macs, rank_weights), singular_values=values, **of_offer),)
    )


def changed(layer, **changes):
    """A profile with other values, of its own or of its only offer."""
    (offer,) = layer.offers
    of_layer = {key: changes.pop(key) for key in list(changes) if key in OF_LAYER}
    return replace(layer, offers=(replace(offer, **changes),), **of_layer)


def layer(name, macs, weights, rank_macs, rank_weights, values, kind="conv", **more):
    """A layer whose ranks cost `rank_macs` and `rank_weights` each; `values` are its singular values."""
    ranks = np.arange(1, len(values) + 1)
    return by_hand(
        name,
        kind,
        macs,
        weights,
        "linear_svd" if kind == "linear" else "spatial_svd",
        ranks * rank_macs,
        ranks * rank_weights,
        np.asarray([values], dtype=np.float64),
        **more,
    )


def timed(layer, dense, ranks=None, conditions=None):
    """A profile with times in nanoseconds: of dense, and of the ranks that are kept; of all others nothing is known."""
    offers = layer.offers
    if ranks is not None:
        (offer,) = offers
        places = [offer.ranks.index(rank) for rank in ranks]
        costs = replace(offer.costs.some(places), latency=np.array(list(ranks.values()), dtype=np.int64))
        kept = offer.energy[places] if len(offer.kept) else offer.kept
        offers = (replace(offer, ranks=tuple(ranks), costs=costs, kept=kept),)
    conditions = {"runtime": "onnxruntime", "threads": 1, "batch_size": 1} if conditions is None else conditions
    return replace(layer, dense=replace(layer.dense, latency=dense), offers=offers, timed=conditions)


def outside(latency):
    """Time that belongs to no layer."""
    name = "(time outside layers)"
    return timed(by_hand(name, "outside", 0, 0, refusal="no layer of the network takes it"), latency)


def joined(*layers):
    """One layer with the offers of all of them."""
    return replace(layers[0], offers=tuple(layer.offer for layer in layers))


def network(*layers):
    return {profile.name: profile for profile in layers}


def enc_vgg16():
    """The 13 convolutions of VGG-16 as ENC counts them: channel SVD for the first, spatial SVD for the others.

    Costs from the architecture alone: I -> O channels on a map of M x M, 3 x 3 kernels.
    """
    plan = [
        (3, 64, 224),
        (64, 64, 224),
        (64, 128, 112),
        (128, 128, 112),
        (128, 256, 56),
        (256, 256, 56),
        (256, 256, 56),
    ]
    plan += [(256, 512, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14)]
    names = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"]
    names += ["conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"]
    profiles = []
    for first, name, (I, O, M) in zip([True] + [False] * 12, names, plan, strict=True):
        per_rank = I * 9 + O if first else 3 * (I + O)
        full = min(I * 9, O) if first else min(3 * I, 3 * O)
        weights = I * O * 9
        values = np.ones(full)
        profiles.append(layer(name, weights * M * M, weights, per_rank * M * M, per_rank, values))
    return network(*profiles)
