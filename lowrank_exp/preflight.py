"""What a job will need at its end, tried before its first epoch: folders that take files, and room in them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lowrank_exp.files import written_whole

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


def unwritable(folder: Path) -> str | None:
    """Why no file can be written in a folder, which is made where it is missing; None: one can."""
    try:
        with written_whole(folder / ".try") as temporary:
            temporary.write_bytes(b"\0" * 4096)
        (folder / ".try").unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None
