"""What an exported file has in it: the network as a function, and what is said of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lowrank_exp.export.formats import format_of


def open_exported(path: str | os.PathLike) -> Callable[[Tensor], Tensor]:
    """The network in a file that `export` wrote, as a function of a batch `(N, ...)`, executed by the file's runtime.

    That is ONNX Runtime for `.onnx`, OpenVINO for `.xml`, torch for `.pt2` and `.ts`; on the CPU, with as many threads
    as torch has now.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a suffix of none of these formats, or a file that cannot be read.
    """
    return _read(path, "open")


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What an exported file says of its network, by name; see `export` for what that is.

    Of a file that somebody else wrote it is whatever texts are in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a suffix of none of the formats, or a file that cannot be read.
    """
    return {name: _value(text) for name, text in _read(path, "metadata").items()}


def inputs_of(path: str | os.PathLike) -> list[tuple[int | None, ...]]:
    """The shapes of the inputs of an ONNX or OpenVINO file, the batch first; None for what may have any size.

    Raises:
        FileNotFoundError, ValueError: as `open_exported`.
    """
    return _read(path, "inputs")


def _read(path: str | os.PathLike, what: str) -> Any:
    path, form = Path(path), format_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"the exported file {path} does not exist (looked for {path.absolute()})")
    form.check_installed()
    try:
        return getattr(form, what)(path)
    except Exception as error:  # each runtime has exceptions of its own
        raise ValueError(f"{path} cannot be read as a file of format {form.name}: {error!s:.300}") from error


def _value(text: str) -> Any:
    """A text that is JSON as the value that it says, any other as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
