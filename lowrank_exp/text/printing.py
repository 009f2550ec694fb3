"""Printing that does not end a run: characters that the terminal or the locale lacks are shown as escapes."""

import io
import sys


def escape_what_cannot_be_shown() -> None:
    """Have standard output and error write `\\u2713` where their encoding has no such character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
