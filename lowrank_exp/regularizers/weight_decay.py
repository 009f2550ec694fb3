"""Which parameters an optimizer's weight decay spares."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lowrank_exp.edits import Factorize, edits_of
from lowrank_exp.network.names import by_layer
from lowrank_exp.svd_form import SVDForm

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch norm and instance norm
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_SVD = ("s", "U", "V")
_WORDS = (*_SVD, "factors", "norm", "bias")
_DEFAULT = (*_SVD, "norm", "bias")


def parameter_groups(
    network: nn.Module, weight_decay: float | None = None, exempt: Sequence[str] = _DEFAULT
) -> list[dict[str, Any]]:
    """The trainable parameters as groups for a torch optimizer: with weight decay, and without.

    Weight decay on s shrinks all singular values alike, against the sparsity penalties; on U and V it pulls away from
    orthonormal ones; on factors under Frobenius decay it counts twice.

    Args:
        network: any network.
        weight_decay: of the parameters that are not exempt; None leaves it to the optimizer's own setting.
        exempt: `s`, `U`, `V` of layers in SVD form, `factors` (weights of layers that a factorization left), `norm`
            (scale and shift of normalization layers), `bias` (of all other layers), names or `re:` patterns of
            parameters, such as `re:layer1.*[.]weight`.

    Returns:
        A list of at most two groups, each with `params` in network order: the decayed ones first, then the exempt ones
        with `weight_decay` 0. A group without parameters is left out. A parameter under two names is exempt if one of
        its names is.

    Raises:
        ValueError: a weight decay below 0, a name of no parameter.

    >>> network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    >>> for group in parameter_groups(network, 1e-4):
    ...     print(group["weight_decay"], [tuple(parameter.shape) for parameter in group["params"]])
    0.0001 [(2, 3)]
    0.0 [(2,), (2,), (2,)]
    """
    if weight_decay is not None and not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}; allowed is 0 or more, or null for that of the optimizer")
    if isinstance(exempt, str):
        raise ValueError(f"exempt is {exempt!r}; allowed is a list of {', '.join(_WORDS)} and names of parameters")
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    try:
        named = by_layer(dict.fromkeys(name for name in exempt if name not in _WORDS), names, "exempt")
    except ValueError as error:
        raise ValueError(f"exempt takes {', '.join(_WORDS)} and the names of parameters, no others: {error}") from error
    factored = tuple(f"{edit.layer}." for edit in edits_of(network) if isinstance(edit, Factorize))
    spared = {
        id(parameter)
        for prefix, module in network.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if _kind_of_parameter(module, name, f"{prefix}.".startswith(factored)) in exempt
        or (f"{prefix}.{name}" if prefix else name) in named
    }
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed: dict[str, Any] = {"params": [p for p in trainable if id(p) not in spared]}
    if weight_decay is not None:
        decayed["weight_decay"] = weight_decay
    rest = {"params": [p for p in trainable if id(p) in spared], "weight_decay": 0.0}
    return [group for group in (decayed, rest) if group["params"]]


def _kind_of_parameter(module: nn.Module, name: str, factored: bool) -> str | None:
    """What `exempt` calls a parameter of `module`."""
    if isinstance(module, _NORMS):
        return "norm"
    if name == "bias" or (isinstance(module, SVDForm) and name in _SVD):
        return name
    return "factors" if factored and name == "weight" else None
