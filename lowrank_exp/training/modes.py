"""The training flags of a network's modules, kept over a stretch of code that sets them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(network: nn.Module) -> Iterator[None]:
    """Every module that was there before leaves in the mode (train or eval) it came in with.

    >>> network = nn.Sequential(nn.Dropout().eval(), nn.ReLU())
    >>> with kept_modes(network):
    ...     _ = network.eval()
    >>> [module.training for module in network.modules()]
    [True, False, True]
    """
    flags = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
