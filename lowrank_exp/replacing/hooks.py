"""The hooks that look at a layer go on looking at what takes its place."""

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def give_hooks_(layer: nn.Module, before: nn.Module) -> None:
    """Let `layer` have the forward hooks of `before`, which it replaces; the hooks' handles still remove them.

    >>> dense, factors = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    >>> handle = dense.register_forward_hook(lambda *_: None)
    >>> give_hooks_(factors, dense)
    >>> len(factors._forward_hooks)
    1
    """
    if before._forward_hooks or before._forward_pre_hooks:
        for hooks in HOOKS:  # the same dictionaries, which the handles know
            setattr(layer, hooks, getattr(before, hooks))
