"""Signals that ask a run to end. They are raised as an exception, so that locks, files and results end well."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
PATIENCE = 10.0  # seconds in which a second signal is one with the first: what ends must not be disturbed

_received: list[tuple[int, float]] = []  # the last signal and when it came
_asked: list[tuple[int, float]] = []  # the signal that `ending_at_boundaries` has heard, and when


class Interrupted(BaseException):
    """A signal asked the process to end. Not an Exception: what goes on after an error must not go on after this.

    `place`: where the job was, in words; `job`: its number in a sweep; `not_run`: the overrides of the jobs that would
    have followed.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.place: str | None = None
        self.job: int | None = None
        self.not_run: list[str] = []

    @property
    def name(self) -> str:
        """Such as SIGTERM."""
        return signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """The exit status by which shells and schedulers know the signal."""
        return 128 + self.number

    def __str__(self) -> str:
        where = "" if self.place is None else f" {self.place}"
        jobs = "1 job" if len(self.not_run) == 1 else f"{len(self.not_run)} jobs"
        rest = f"\n{jobs} not run: {'; '.join(self.not_run)}" if self.not_run else ""
        return f"interrupted by {self.name}{where}; the same command goes on from there{rest}"


@contextmanager
def signals_raised() -> Iterator[None]:
    """Within the block `SIGINT`, `SIGTERM` and `SIGHUP` raise `Interrupted`, but for those that the caller ignores.

    A second one is left out for `PATIENCE` seconds. Does nothing within a block of this kind, and outside the main
    thread, which alone hears signals.
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    heard = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread() or raising():
        yield
        return
    _received.clear()
    taken = {number: handler for number, handler in heard.items() if handler is not signal.SIG_IGN}  # nohup ignores
    for number in taken:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def ending_at_boundaries(number: int, patience: float) -> Iterator[None]:
    """Within the block a signal asks the run to end: `raise_received`, at the next boundary, raises `Interrupted`.

    Where no boundary comes within `patience` seconds, it is raised at once. Loader workers, which inherit the handler
    by a fork, and which SLURM may signal too, leave it alone. For the main thread.
    """
    owner, main = os.getpid(), threading.main_thread().ident
    open_ = threading.Event()

    def remind() -> None:
        if open_.is_set() and main is not None:
            signal.pthread_kill(main, number)

    reminder = threading.Timer(patience, remind)
    reminder.daemon = True

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner or _received:  # it is not this process that is asked, or it is ending already
            return
        now = time.monotonic()
        if not _asked:
            _asked.append((number, now))
            reminder.start()
            os.write(2, f"{signal.Signals(number).name}: ends at the next boundary, and goes on later\n".encode())
        elif now - _asked[0][1] >= patience:
            _raise(number, frame)

    open_.set()
    former = signal.signal(number, hear)
    try:
        yield
    finally:
        open_.clear()
        reminder.cancel()
        signal.signal(number, signal.SIG_DFL if former is None else former)
        _asked.clear()


def raising() -> bool:
    """Whether a block of `signals_raised` is open in this process."""
    return any(signal.getsignal(getattr(signal, name)) is _raise for name in NAMES if hasattr(signal, name))


def end_with_the_parent() -> None:
    """End this process, in about a second and however the parent ends, when that has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def raise_received() -> None:
    """Raise `Interrupted` if a signal came whose exception somebody has swallowed, or one that asks for boundaries."""
    if _asked and not _received:
        _received.append((_asked[0][0], time.monotonic()))
    if (came := received()) is not None:
        raise came


def received() -> Interrupted | None:
    """The signal that came since `signals_raised` began."""
    return Interrupted(_received[-1][0]) if _received else None


def signal_in(error: BaseException) -> Interrupted | None:
    """The signal that `error` is, or that somebody has made `error` of; a `KeyboardInterrupt` is `SIGINT`.

    >>> signal_in(KeyboardInterrupt()).status, signal_in(ValueError())
    (130, None)
    """
    if isinstance(error, Interrupted):
        return error
    return Interrupted(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else received()


def _raise(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _received and now - _received[-1][1] < PATIENCE:
        os.write(2, b"ending already\n")
        return
    _received.append((number, now))
    raise Interrupted(number)
