"""Where layers keep what was done to them; see `lowrank_exp.edits` for what that is."""

from torch import nn

RECORDS = "lowrank_edits"  # the attribute of a module that keeps some


def has_edits(model: nn.Module) -> bool:
    """Whether a layer of `model` was replaced, cut or changed.

    >>> has_edits(nn.Sequential(nn.Linear(2, 2)))
    False
    """
    return any(module.__dict__.get(RECORDS) for module in model.modules())
