"""Jobs in processes of their own, without the seconds that imports take: forked from one that has imported all.

In such a process the system can be made to fail: it dies at one of its calls that name or sync files, or its files may
not grow beyond a size.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "link", "rename", "replace", "unlink", "utime")  # of `os`: what makes files whole, seen, or gone
TESTS = str(Path(__file__).parents[1])

_server = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, -9 where it was killed, what it said, and how many of `CALLS` it made."""

    status: int
    said: str
    calls: int


def forked(command: Callable[..., Any], *arguments: Any, dies_at: int = 0, largest: int | None = None) -> Ended:
    """Call `command(*arguments)` in a new process.

    Args:
        command: a function of a module, which may raise SystemExit.
        arguments: of it.
        dies_at: the process is killed at this one of its `CALLS`: before it, or, at every other number, after it. 0:
            it lives.
        largest: bytes that a file may have; None: any number.
    """
    _start_server()
    reader, writer = _server.Pipe(duplex=False)
    calls = _server.Value("i", 0)
    process = _server.Process(target=_run, args=(writer, calls, dies_at, largest, command, arguments))
    process.start()
    writer.close()
    said = b""
    with contextlib.suppress(EOFError), open(reader.fileno(), "rb", closefd=False) as pipe:
        said = pipe.read()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, said.decode(errors="replace"), calls.value)


def lowrank_exp(*arguments: str) -> None:
    """The command, with one thread and no logger."""
    from lowrank_exp.cli import main

    sys.argv = ["lowrank-exp", *arguments, "threads=1"]
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):  # as Python does, where standard error is not a pipe of ours
            print(end.code, file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        raise


def _start_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS)
        patch.setenv("OMP_NUM_THREADS", "1")
        _server.set_forkserver_preload(["support.preloaded"])
        ensure_running()


def _run(writer: Any, calls: Any, dies_at: int, largest: int | None, command: Callable, arguments: tuple) -> None:
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    os.environ.pop("PYTHONPATH", None)
    for name in CALLS:
        setattr(os, name, _counted(getattr(os, name), calls, dies_at))
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    command(*arguments)


def _counted(call: Callable, calls: Any, dies_at: int) -> Callable:
    def counted(*arguments: Any, **options: Any) -> Any:
        calls.value += 1
        dies = calls.value == dies_at
        if dies and dies_at % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*arguments, **options)
        finally:
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)

    return counted
