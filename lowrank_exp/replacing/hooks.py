"""The hooks that look at a layer go on looking at what takes its place."""

from torch import nn

from lowrank_exp.network.private import forward_hooks, share_forward_hooks_


def give_hooks_(layer: nn.Module, before: nn.Module) -> None:
    """Let `layer` have the forward hooks of `before`, which it replaces; the hooks' handles still remove them.

    >>> dense, factors = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    >>> handle = dense.register_forward_hook(lambda *_: None)
    >>> give_hooks_(factors, dense)
    >>> len(forward_hooks(factors))
    1
    """
    if forward_hooks(before):
        share_forward_hooks_(layer, before)
