"""What cannot be replaced safely in a network, whatever the decomposition."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from lowrank_exp.decomposition.uses import uses_of_children
from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.private import own_modules, own_parameters

SHOWN = 6  # places of one parameter that a reason names


def refusals(model: nn.Module) -> dict[str, str]:
    """Reasons, by layer name, why convolutions and linear layers of `model` must be left alone.

    Refused are: layers that share their weight or bias with another place of the network, parametrized weights (weight
    norm, spectral norm, pruning masks), layers whose weight is read without calling them (the output projection of
    multi-head attention, the linear layers of a transformer encoder, and what the code of a parent's forward says, as
    that of Swin transformers), subclasses with a forward of their own, lazy layers before their first call, and complex
    weights. Other layers that are never called can only be told by a forward pass: `profile` refuses them.

    Raises:
        ValueError: `model` is itself a bare layer, which has no parent to be replaced in, or TorchScript.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "the network is TorchScript, whose layers cannot be replaced: give the Python module that it was made "
            "from. lowrank_exp.measure takes it as it is"
        )
    if isinstance(model, LAYERS):
        raise ValueError(
            f"the model is a bare {type(model).__name__}: there is nothing to replace it in. "
            "Wrap it: torch.nn.Sequential(layer)"
        )
    places: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False):
            places[id(parameter)].append(f"{name}.{key}" if name else key)
    read = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            read[module.out_proj] = "the output projection of nn.MultiheadAttention, which reads its weight uncalled"
        elif isinstance(module, nn.TransformerEncoderLayer):
            reason = "part of nn.TransformerEncoderLayer, whose fast path reads its weight uncalled"
            read |= {module.linear1: reason, module.linear2: reason}
        for name, use in uses_of_children(type(module)).items():
            if use.itself or "weight" not in use.attributes:
                continue
            if isinstance(layer := own_modules(module).get(name), LAYERS):
                reason = f"its weight is read by its parent, {type(module).__name__}; it is never called itself"
                read.setdefault(layer, reason)

    reasons = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        shared = [place for p in layer.parameters(recurse=False) for place in places[id(p)] if len(places[id(p)]) > 1]
        if layer in read:
            reasons[name] = read[layer]
        elif is_parametrized(layer) or own_parameters(layer).keys() != {"weight", "bias"}:
            reasons[name] = "its weight or bias is parametrized; remove the parametrization first"
        elif any(is_lazy(p) for p in layer.parameters(recurse=False)):
            reasons[name] = "a lazy layer without shape; run the network once first"
        elif shared:
            reasons[name] = f"its parameters are tied: {_listed(sorted(set(shared)))}"
        elif type(layer) not in LAYERS:
            reasons[name] = f"{type(layer).__name__} is a subclass whose forward may differ"
        elif not layer.weight.is_floating_point():
            reasons[name] = f"its weight is {layer.weight.dtype}, not a floating-point type"
    return reasons


def _listed(places: Sequence[str]) -> str:
    more = f" ... ({len(places)} in all)" if len(places) > SHOWN else ""
    return f"{', '.join(places[:SHOWN])}{more}"
