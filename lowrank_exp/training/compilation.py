"""`torch.compile` around a fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def compilation(wanted: bool, where: torch.device) -> Iterator[None]:
    """Inside, networks may be compiled; compiled code is dropped at the end, or networks to come would count as its
    recompilations, of which torch allows eight.

    Raises:
        ValueError: torch.compile does not work on this machine.
    """
    if not wanted:
        yield
        return
    try:
        try:
            torch.compile(_trial)(torch.ones(8, device=where))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"compile is true, but torch.compile does not work here on {where} ({type(error).__name__}: {reason}). "
                "It needs a C++ compiler such as g++ (CXX names another one), on GPUs Triton as well: install them, or "
                "set compile=false"
            ) from error
        yield
    finally:
        torch.compiler.reset()


def _trial(x_N: Tensor) -> Tensor:
    return (2 * x_N).relu() + 1
