"""The profile of a network in SVD form: its layers' options for the rank policies."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition import SVD, Decompositions, SVDDecomposition
from lowrank_exp.network.copying import copy_network
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.profile import profile
from lowrank_exp.svd_form.layers import SVDForm
from lowrank_exp.svd_form.spectrum import check_spectrum, spectrum


def forms_of(model: nn.Module) -> dict[str, SVDForm]:
    """The layers in SVD form, by name, in network order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SVDForm)}


def dense_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` with plain dense layers in the place of its SVD forms: what it costs and what it computes.

    >>> from lowrank_exp.decomposition import LinearSVD
    >>> net = nn.Sequential(SVDForm.from_dense(nn.Linear(6, 4), LinearSVD()))
    >>> dense_copy(net)
    Sequential(
      (0): Linear(in_features=6, out_features=4, bias=True)
    )
    """
    dense = copy_network(model)
    for name, form in forms_of(dense).items():
        dense.set_submodule(name, form.dense())
    return dense


def profile_svd(model: nn.Module, example_input: Tensor, by: str = "resvd") -> dict[str, LayerProfile]:
    """Measure every layer once, as `lowrank_exp.profile` does, where some are in SVD form.

    A form's ranks go up to its own, its costs are those of the plain layers that truncation leaves, its singular
    values those that truncation cuts. `allocate` chooses ranks from them for `truncate_`. Layers that are not in SVD
    form are left alone.

    Args:
        model: a network with SVD forms; it is not changed.
        example_input: `(N, ...)`; costs are for one image.
        by: the singular values, see `truncate_`: of the product (`resvd`), or the absolute values of s (`by_s`).

    Raises:
        ValueError: no layer is in SVD form, or another `by`.
    """
    check_spectrum(by)
    forms = forms_of(model)
    if not forms:
        raise ValueError("no layer of this network is in SVD form: put some into it by to_svd_, or use profile")
    dense = dense_copy(model)
    values = {dense.get_submodule(name): form for name, form in forms.items()}

    def known(decomposition: SVDDecomposition, layer: nn.Module) -> SVD:
        S_GR = spectrum(values[layer], by)
        missing = decomposition.full_rank(layer) - S_GR.shape[1]
        return SVD(None, torch.nn.functional.pad(S_GR, (0, missing)), None)

    kinds = Decompositions((), (), {name: (form.decomposition,) for name, form in forms.items()})
    profiles = profile(dense, example_input, kinds, store=known)
    return {name: _up_to(one, forms[name].rank) if name in forms else _other(one) for name, one in profiles.items()}


def _up_to(layer: LayerProfile, rank: int) -> LayerProfile:
    """The profile without the ranks above that of the form."""
    if not layer.offers:
        return layer
    offer, values_GR = layer.offer, layer.singular_values[:, :rank]
    unfoldings = tuple((values_GR, longer) for _, longer in offer.unfoldings)
    cut = {"ranks": offer.ranks[:rank], "costs": offer.costs.some(slice(rank))}
    return replace(layer, offers=(replace(offer, singular_values=values_GR, unfoldings=unfoldings, **cut),))


def _other(layer: LayerProfile) -> LayerProfile:
    """The profile of a layer that stays as it is."""
    none = f"no decomposition is configured for {layer.kind} layers"
    return replace(layer, refusal=not_in_form(None if layer.refusal == none else layer.refusal))


def not_in_form(reason: str | None) -> str:
    """Why a layer stays as it is: it was not put into SVD form, perhaps because it could not be."""
    return f"it is not in SVD form: {reason}" if reason else "it is not in SVD form"
