"""Files that `torch.save` wrote, read without running code and without unpacking more than they hold."""

import os
import pickle
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from lowrank_exp.text.plain_text import plain


def archive_content(path: str | os.PathLike, mmap: bool = False) -> Any:
    """What `torch.save` put into a file: plain values and tensors, on the CPU.

    An archive of torch is not compressed. So one that would unpack to more bytes than the file has was made to fill
    the memory, and is refused before anything is unpacked.

    Args:
        path: the file.
        mmap: leave the numbers of tensors in the file until they are looked at; their check sums are not.

    Raises:
        ValueError: another kind of file, a damaged one, one that unpacks to more than it is, or one that holds anything
            else.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            size = path.stat().st_size
            broken = archive.testzip() if unpacked <= size and not mmap else None  # torch looks at no check sum
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"it is not an archive that torch.save wrote, or it is cut off ({error})") from None
    if unpacked > size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes, and has {size:,}: archives of torch are not packed")
    if broken is not None:
        raise ValueError(f"its part {plain(broken):.80} has changed since it was written")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it refers to {match[1]:.80}" if match else "it holds other things"
        raise ValueError(f"only plain values and tensors are read, and {what}") from None
    except Exception as error:  # torch raises many kinds for damaged files, and tells to load without weights_only
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
