"""What a job will need at its end, tried before its first epoch: folders that take files, room in them, devices."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank_exp.files.writable import unwritable
from lowrank_exp.training import places

CHECKPOINT = 3  # times the network: its weights, and for each up to two numbers of the optimizer


def check_folders(folders: Mapping[str, Path]) -> None:
    """Raise ValueError for the first folder, by the key that names it, in which no file can be made."""
    for key, folder in folders.items():
        if (problem := unwritable(folder)) is not None:
            raise ValueError(
                f"{key} is {folder.absolute()}, where no file can be written ({problem}): name a folder that can be "
                f"written to, {key}=<folder>, or make room there"
            )


def check_room(folder: Path, network: nn.Module) -> None:
    """Raise ValueError unless a folder has room for a checkpoint of the network."""
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values() if hasattr(t, "element_size"))
    needed, free = CHECKPOINT * size, shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.absolute()} has room for {free / 1e6:,.1f} MB, and a checkpoint of this network needs up to "
            f"{needed / 1e6:,.1f} MB: make room, or name another folder by paths.outputs=<folder>"
        )


def check_size(make: Callable[[], nn.Module], name: str) -> None:
    """Raise ValueError where the network that `make` gives, called `name`, has more weights than memory can hold.

    It is made without its numbers, so that nothing is allocated; one that cannot be made so is not looked at.
    """
    try:
        with torch.device("meta"):
            network = make()
        size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    except Exception:  # whatever is wrong is told where it is made in earnest
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else size
    if size > memory:
        raise ValueError(
            f"the network that {name} makes has about {size / 1e9:,.1f} GB of weights, and this machine has "
            f"{memory / 1e9:,.1f} GB of memory: make it smaller"
        )


def check_processes(phases: Mapping[str, Any], device: str) -> None:
    """Raise ValueError for a phase, by its configuration, that is to train on more devices than there are."""
    for name, phase in phases.items():
        for devices in _devices(phase):
            try:
                places(torch.device(device), devices)
            except ValueError as error:
                raise ValueError(f"phase {name}: {error}") from error


def _devices(phase: Any) -> Iterator[int]:
    """What `devices` is, of the phase and of those in it."""
    if not isinstance(phase, Mapping):
        return
    if "devices" in phase:
        yield phase["devices"]
    for part in phase.values():
        yield from _devices(part)
