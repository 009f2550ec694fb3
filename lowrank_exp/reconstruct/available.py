"""Which fit to data there is for which decomposition, as its class says (`Decomposition.fits`), and which layer."""

from torch import nn

from lowrank_exp.decomposition.base import FITS, Decomposition, Rank
from lowrank_exp.reconstruct.alternating import chain_refusal


def adds_bias(fit: str) -> bool:
    """Whether a layer has a bias after the fit `fit`, even if it had none before."""
    return fit in ("response", "relu")


def acts_on_responses(kind: Decomposition) -> bool:
    """Whether the last factor is a map of all responses of a group: what a subspace of responses asks for."""
    return "response" in kind.fits


def check_fit(fit: str, name: str, kind: Decomposition, layer: nn.Module, rank: Rank | None = None) -> None:
    """Nothing, if the fit `fit` can be made of `layer` (which may lie on the meta device).

    Args:
        fit: its name.
        name: of the layer, for the message.
        kind: the decomposition.
        layer: the dense layer.
        rank: of the decomposition; where it is not given, its lowest.

    Raises:
        ValueError: there is no such fit, not for this decomposition or not for this layer.
    """
    if fit not in FITS:
        raise ValueError(f"there is no fit to data {fit!r}; there are {', '.join(FITS)}")
    if refusal := fit_refusal(layer, kind, kind.ladder(layer)[0] if rank is None else rank, fit):
        raise ValueError(
            f"{name}: {refusal}. Leave the layer alone by a rule ({{{name}: null}}), give it another decomposition, or "
            "fit to the weights"
        )


def fit_refusal(layer: nn.Module, kind: Decomposition, rank: Rank, fit: str) -> str | None:
    """Why the fit `fit` cannot be made of `layer` at `rank`; None where it can."""
    if fit not in kind.fits:
        reason = f" ({kind.why_no_fit})" if kind.why_no_fit else ""
        kinds = ", ".join(one for one in FITS if one in kind.fits) or "none"
        return f"there is no fit {fit!r} for {kind.name}{reason}, which has: {kinds}"
    if fit != "whitened" or acts_on_responses(kind):
        return None
    if refusal := chain_refusal(kind.skeleton(layer, rank, device="meta")):
        return f"there is no fit {fit!r} for {kind.name} here: {refusal}"
    return None
