"""Decoded images in one file on disk, filled row by row by whoever decodes an image first.

A record is the pixels of an image and their CRC-32. Nothing else is kept of what is there: a record that was never
written reads as zeros or ends early, one that was half written or damaged has another sum, and in each case the image
is decoded again. So processes that share the file need no lock: two that decode the same image write the same bytes.

The file is read and written, not mapped: in a mapped file a full disk, or a file cut short, kills the process.
"""

import logging
import os
import shutil
import zlib
from io import FileIO
from pathlib import Path

import numpy as np

SUM_BYTES = 4
# What the cache leaves free of the disk, for checkpoints and results.
RESERVE = 2**30

log = logging.getLogger(__name__)


class DecodeCache:
    """Rows of equal length under numbers from 0.

    Whatever goes wrong with the file (no folder, no right to write, a full disk) is one warning per process; the cache
    is then read only, or off.

    Args:
        path: the file; made, with its folder, by the first row that is written.
        row_bytes: bytes of a row.
        limit: bytes that the file may take; rows that lie beyond are never stored. None = no limit.

    >>> import tempfile
    >>> cache = DecodeCache(Path(tempfile.mkdtemp()) / "images.rows", row_bytes=3)
    >>> row = np.array([1, 2, 3], dtype=np.uint8)
    >>> cache.write(5, row), cache.read(5).tolist(), cache.read(4)
    (None, [1, 2, 3], None)
    """

    def __init__(self, path: Path, row_bytes: int, limit: int | None = None) -> None:
        self.path = path
        self.row_bytes = row_bytes
        self.rows = None if limit is None else limit // (row_bytes + SUM_BYTES)
        self._file: FileIO | None = None
        self._process: int | None = None
        self._writable = True

    def __getstate__(self) -> dict:
        """For another process, which opens the file itself."""
        return {**self.__dict__, "_file": None, "_process": None, "_writable": True}

    def read(self, row: int) -> np.ndarray | None:
        """The row as uint8 `(row_bytes,)`, or None where it is not there or damaged."""
        file = self._open() if self._has(row) else None
        if file is None:
            return None
        record = np.empty(self.row_bytes + SUM_BYTES, dtype=np.uint8)
        try:
            file.seek(row * len(record))
            length = file.readinto(record)
        except OSError as error:
            self._stop(error)
            return None
        pixels = record[: self.row_bytes]
        return pixels if length == len(record) and record[self.row_bytes :].tobytes() == _sum(pixels) else None

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Store uint8 `(row_bytes,)`."""
        if not self._has(row) or not self._writable:
            return
        try:
            file = self._open(create=True)
            if file is None or not self._writable:
                return
            if shutil.disk_usage(self.path.parent).free < RESERVE + self.row_bytes:
                raise OSError(f"less than {RESERVE / 2**30:g} GiB of the disk is free")
            record = pixels.tobytes() + _sum(pixels)
            file.seek(row * len(record))
            if file.write(record) != len(record):
                raise OSError("the disk is full")
        except OSError as error:
            self._stop(error)

    def _has(self, row: int) -> bool:
        return self.rows is None or row < self.rows

    def _open(self, create: bool = False) -> FileIO | None:
        """The file as this process has opened it: a handle from before a fork would share its position."""
        if self._process == os.getpid() and self._file is not None:
            return self._file
        self._process = os.getpid()
        flags = getattr(os, "O_BINARY", 0)
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags |= os.O_CREAT
        try:
            self._file = FileIO(os.open(self.path, os.O_RDWR | flags, 0o666), "r+")
        except FileNotFoundError:
            self._file = None
        except OSError as error:
            self._stop(error)
            self._file = FileIO(self.path, "r") if self.path.is_file() and os.access(self.path, os.R_OK) else None
        return self._file

    def _stop(self, error: OSError) -> None:
        if self._writable:
            log.warning(
                "decoded images could not be cached in %s (%s): those that are missing there are decoded every time",
                self.path,
                error,
            )
        self._writable = False


def _sum(pixels: np.ndarray) -> bytes:
    """CRC-32; 1 in place of 0, which is what an empty record has."""
    return (zlib.crc32(pixels) or 1).to_bytes(SUM_BYTES, "little")
