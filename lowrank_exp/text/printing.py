"""Printing that does not end a run: for a terminal that lacks characters, and for a reader that has gone."""

import io
import os
import sys
from typing import Any


def print_safely() -> None:
    r"""Have standard output and error show `\u2713` where their encoding lacks a character, and lose what nobody reads.

    A reader that goes, such as `head` when it has its lines, then ends neither a job nor a report: what is computed and
    written to files is whole all the same.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):  # a test's or a notebook's
            continue
        if stream is getattr(sys, f"__{name}__"):
            stream = _dropping_unread(stream)
            setattr(sys, name, stream)
        stream.reconfigure(errors="backslashreplace")


def _dropping_unread(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream like another one to the same place."""
    stream.flush()
    place = _ReaderMayGo(stream.fileno(), "w", closefd=False)
    buffer: Any = place if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(place)  # as python -u has it
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _ReaderMayGo(io.FileIO):
    """A pipe or a file to write to; from the moment on that nobody reads a pipe, what is written goes nowhere."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)
