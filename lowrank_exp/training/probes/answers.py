"""How far a network's answers are from those of another one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lowrank_exp.network.modes import kept_modes
from lowrank_exp.training.device import resolve
from lowrank_exp.training.evaluate import over_views
from lowrank_exp.training.generators import undisturbed


def answers_error(network: nn.Module, reference: nn.Module, batches: Iterable[Tensor], device: str = "auto") -> float:
    r"""The squared error of the logits of `network`, relative to those of `reference`; no labels are looked at.

    .. math:: \frac{\sum_n ||y_n - \hat y_n||^2}{\sum_n ||y_n||^2}

    Both are evaluated without gradients, and are afterwards in the modes and on the devices where they were.

    Args:
        network: takes images (N, ...), returns logits (N, C).
        reference: takes the same.
        batches: of images.
        device: where to compute.

    Returns:
        The error; infinite where an answer of `network` is not finite; 0 where `reference` answers nothing.

    >>> one, two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> with torch.no_grad():
    ...     _, _ = one.weight.fill_(1.0), two.weight.fill_(1.1)
    >>> round(answers_error(two, one, [torch.ones(3, 2)], "cpu"), 6)
    0.01
    """
    where = resolve(device)
    homes = [next(iter(one.state_dict().values()), torch.empty(0)).device for one in (network, reference)]
    off, whole = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    with kept_modes(network), kept_modes(reference), undisturbed(where), torch.no_grad():
        try:
            for one in (network, reference):
                one.eval().to(where)
            for images in batches:
                answers_NC, wanted_NC = (
                    over_views(one, images.to(where)).double().cpu() for one in (network, reference)
                )
                off += (answers_NC - wanted_NC).square().sum()
                whole += wanted_NC.square().sum()
        finally:
            for one, home in zip((network, reference), homes, strict=True):
                one.to(home)
    if not off.isfinite():
        return float("inf")
    return float(off / whole) if whole else 0.0
