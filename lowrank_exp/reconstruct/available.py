"""Which fit to data there is for which decomposition, as its class says (`Decomposition.fits`), and which layer."""

from torch import nn

from lowrank_exp.decomposition.base import FITS, Decomposition, Rank
from lowrank_exp.reconstruct.alternating import chain_refusal
from lowrank_exp.reconstruct.patches import patches_refusal


def adds_bias(how: str) -> bool:
    """Whether a layer has a bias after the fit `how`, even if it had none before."""
    return how in ("response", "relu")


def acts_on_responses(kind: Decomposition) -> bool:
    """Whether the last factor is a map of all responses of a group: what a subspace of responses asks for."""
    return "response" in kind.fits


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
    if how not in kind.fits:
        reason = f" ({kind.why_no_fit})" if kind.why_no_fit else ""
        kinds = ", ".join(one for one in FITS if one in kind.fits) or "none"
        return f"there is no fit {how!r} for {kind.name}{reason}, which has: {kinds}"
    if how != "whitened" or (acts_on_responses(kind) and not asymmetric):
        return None
    if refusal := patches_refusal(layer):
        return f"the fit {how!r} of {kind.name} needs patches: {refusal}"
    if not acts_on_responses(kind) and (refusal := chain_refusal(kind.skeleton(layer, rank, device="meta"))):
        return f"there is no fit {how!r} for {kind.name} here: {refusal}"
    return None
