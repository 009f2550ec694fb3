"""A finished job answers at once: what it was asked, what it has read, and the code that it ran are as they were.

Whether a job has finished is decided by the keys of its phases, which take the content of data and weights, and so
torch, the network and the data. A receipt in the job's folder is a shorter proof of the same, by the size and the time
of every file: where it does not hold, or there is none, the long way is gone. No torch here.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lowrank_exp.files.results import RESULT, Result, digest
from lowrank_exp.files.whole import file_digest, find_difference, write_whole

RECEIPT = ".receipt.json"
SILENT = (
    "progress",
    "verbose",
    "debug",
    "logger",
    "launcher",
    "sweeper",
    "tags",
    "paths",
)  # decide nothing of a finished job
PACKAGES = ("torch", "torchvision", "scikit-learn", "pytorch-lightning", "onnxruntime", "openvino")
MOST = 50_000  # files that are looked at; with more the long way is as short
CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")  # what may be the full name of a class or a function
OURS = ("lowrank_exp.", "torch.")


def read_receipted(cfg: DictConfig, choices: Mapping[str, Any], folder: Path) -> Result | None:
    """The result in a job's folder, if its receipt holds and its files are whole; else None, and nothing is said."""
    if cfg.dry_run or cfg.stop_after is not None or cfg.store.exact:
        return None
    try:
        receipt = json.loads((folder / RECEIPT).read_bytes())
        if receipt != _receipt(cfg, choices, folder):
            return None
        result = Result.read(folder / RESULT)
        return result if find_difference(folder, result.files) is None else None
    except (OSError, ValueError):
        return None


def write_receipt(cfg: DictConfig, choices: Mapping[str, Any], folder: Path, result: Result) -> None:
    """Leave a receipt for a job that has ended well, with all that it was asked for.

    A folder that takes none has none: the job then goes the long way again.
    """
    with contextlib.suppress(OSError):
        (folder / RECEIPT).unlink(missing_ok=True)
        if result.status != "ok" or result.not_exported or not result.files:
            return
        if (receipt := _receipt(cfg, choices, folder)) is not None:
            with write_whole(folder / RECEIPT, durable=False) as temporary:
                temporary.write_text(json.dumps(receipt), encoding="utf-8")


def _receipt(cfg: DictConfig, choices: Mapping[str, Any], folder: Path) -> dict[str, str] | None:
    """What decides whether the result would be another one; None: that cannot be told by looking at files."""
    written = OmegaConf.create({**_plain(cfg, resolve=False), "progress": True})  # which data sets take over
    asked = {name: value for name, value in _plain(written, resolve=True).items() if name not in SILENT}
    chosen = {name: value for name, value in choices.items() if name not in SILENT and not name.startswith("hydra/")}
    words = set(_words(asked))
    files = {word for word in words if os.path.exists(word)}
    if any(CODE.fullmatch(word) and not word.startswith(OURS) for word in words - files):
        return None  # code of the user's own, of which nobody knows the files
    if (inputs := _mark(sorted(files))) is None:
        return None
    return {
        "asked": digest([asked, chosen, os.environ.get("OMP_NUM_THREADS")]),
        "inputs": inputs,
        "code": _code(),
        "result": file_digest(folder / RESULT),
    }


def _plain(cfg: DictConfig, resolve: bool) -> dict[str, Any]:
    return {str(name): value for name, value in dict(OmegaConf.to_container(cfg, resolve=resolve)).items()}


def _words(value: Any) -> Iterator[str]:
    """Every text in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _words(one)
    elif isinstance(value, list):
        for one in value:
            yield from _words(one)


def _mark(paths: list[str]) -> str | None:
    """Names, sizes and times of files, and of all files below folders; None: too many."""
    seen = []
    for path in paths:
        below = ((root, name) for root, _, names in os.walk(path) for name in names)
        for root, name in below if os.path.isdir(path) else [os.path.split(path)]:
            stat = os.stat(os.path.join(root, name))
            seen.append((root, name, stat.st_size, stat.st_mtime_ns))
            if len(seen) > MOST:
                return None
    return digest(sorted(seen))


@functools.cache
def _code() -> str:
    """Names, sizes and times of our own files, and the versions of what computes."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return digest([_mark([str(path) for path in sorted(Path(__file__).parents[1].rglob("*.py"))]), versions])
