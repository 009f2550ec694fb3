"""The training flags of a network's modules, kept over a stretch of code that sets them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lowrank_exp.network.draws import kept_generators


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


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode and the global generators come back afterwards."""
    with kept_modes(network), kept_generators(), torch.no_grad():
        network.eval()
        yield
