"""Which fit to data there is for which decomposition."""

from torch import nn

from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.reconstruct.alternating import chain_refusal
from lowrank_exp.reconstruct.patches import patches_refusal

FITS = ("whitened", "response", "relu")

_WHITENED = frozenset({"whitened"})
# By a decomposition's name, or by its name and an option. One that is not named here has what its chains allow:
# "whitened", if they are of plain convolutions or of linear layers.
AVAILABLE: dict[str, frozenset[str]] = {
    "linear_svd": frozenset(FITS),
    "channel_svd": frozenset(FITS),
    "channel_svd, order=pointwise_first": _WHITENED,
    "spatial_svd": _WHITENED,
    "jaderberg_scheme1": _WHITENED,
    "tucker1": _WHITENED,
    "tucker2": _WHITENED,
    "cp": _WHITENED,
    "tensor_train": _WHITENED,
    "grouped_channel_svd": _WHITENED,
    "slice_wise_svd": _WHITENED,
    "slice_wise_svd, form=dense": frozenset(),
    "monochromatic": _WHITENED,
    "biclustering": _WHITENED,
    "product_quantization": frozenset(),
}
_REASONS = {
    "product_quantization": "its weights share their code words",
    "slice_wise_svd": "it leaves a single layer",
}


def availability(kind: Decomposition) -> frozenset[str]:
    """The fits that there are for a decomposition.

    >>> from lowrank_exp.decomposition import ChannelSVD, SpatialSVD
    >>> sorted(availability(ChannelSVD())), sorted(availability(SpatialSVD()))
    (['relu', 'response', 'whitened'], ['whitened'])
    """
    for option, value in kind.options().items():
        if (variant := f"{kind.name}, {option}={value}") in AVAILABLE:
            return AVAILABLE[variant]
    return AVAILABLE.get(kind.name, _WHITENED)


def adds_bias(how: str) -> bool:
    """Whether a layer has a bias after the fit `how`, even if it had none before."""
    return how in ("response", "relu")


def acts_on_responses(kind: Decomposition) -> bool:
    """Whether the last factor is a map of all responses of a group: what a subspace of responses asks for."""
    return "response" in availability(kind)


def check_fit(
    how: str, name: str, kind: Decomposition, layer: nn.Module, rank: Rank | None = None, asymmetric: bool = False
) -> None:
    """Nothing, if the fit `how` can be made of `layer` (which may lie on the meta device).

    Args:
        how: the fit.
        name: of the layer, for the message.
        kind: the decomposition.
        layer: the dense layer.
        rank: of the decomposition; where it is not given, its lowest.
        asymmetric: see `fit_to_data`.

    Raises:
        ValueError: there is no such fit, not for this decomposition or not for this layer.
    """
    if how not in FITS:
        raise ValueError(f"there is no fit to data {how!r}; there are {', '.join(FITS)}")
    if refusal := _refusal(layer, kind, kind.ladder(layer)[0] if rank is None else rank, how, asymmetric):
        raise ValueError(
            f"{name}: {refusal}. Leave the layer alone by a rule ({{{name}: null}}), give it another decomposition, or "
            "fit to the weights"
        )


def _refusal(layer: nn.Module, kind: Decomposition, rank: Rank, how: str, asymmetric: bool) -> str | None:
    """Why the fit `how` cannot be made of `layer` at `rank`; None where it can."""
    there = availability(kind)
    if how not in there:
        reason = f" ({_REASONS[kind.name]})" if kind.name in _REASONS else ""
        kinds = ", ".join(one for one in FITS if one in there) or "none"
        return f"there is no fit {how!r} for {kind.name}{reason}, which has: {kinds}"
    if how != "whitened" or (acts_on_responses(kind) and not asymmetric):
        return None
    if refusal := patches_refusal(layer):
        return f"the fit {how!r} of {kind.name} needs patches: {refusal}"
    if not acts_on_responses(kind) and (refusal := chain_refusal(kind.skeleton(layer, rank, device="meta"))):
        return f"there is no fit {how!r} for {kind.name} here: {refusal}"
    return None
