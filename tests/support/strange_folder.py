"""A folder that several hosts share, on a file system that does what networks' ones may; the hosts run in turns.

Every host is a thread, of which one runs at a time, up to its next call to the file system: so any order of their calls
can be tried. They are process 1 each, their clocks differ by hours, and none hears of another but through the folder.
"""

import builtins
import errno
import io
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrank_exp.files import exclusion, lease, owner

LAG = 30.0  # seconds in which a host may not see what another has made
SWITCHING = ("link", "rename", "replace", "unlink", "utime")  # calls before which another host may be next


class DeadError(BaseException):
    """The host of this thread was switched off."""


class Host(threading.Thread):
    """One host, with one process that does `work(host)`; `ended` is what that returned."""

    def __init__(self, folder: "StrangeFolder", name: str, ahead: float, work: Callable[["Host"], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self.folder, self.ahead, self.work = folder, ahead, work
        self.turn = threading.Semaphore(0)
        self.dead = self.frozen = self.done = False
        self.wakes, self.ended, self.error = 0.0, None, None
        self.leases: list[lease.Lease] = []
        self.start()

    def run(self) -> None:
        self.turn.acquire()
        try:
            self.ended = self.work(self)
        except DeadError:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self.folder.idle.release()

    def pause(self) -> None:
        """Called in its thread: another may be next."""
        if not self.dead:
            self.folder.idle.release()
            self.turn.acquire()
        if self.dead:
            raise DeadError

    def sleep(self, seconds: float) -> None:
        """Called in its thread."""
        self.wakes = self.folder.now + seconds
        self.pause()

    @property
    def runs(self) -> bool:
        """Whether it has something to do now."""
        return not (self.dead or self.frozen or self.done) and self.wakes <= self.folder.now


class StrangeFolder:
    """The folder, its clock `now`, and what is strange about it.

    Args:
        path: of a real folder.
        links: whether a file may have two names.
        excludes: whether leases exclude; else every host holds every one.
        lags: whether others see what a host makes only after `LAG` seconds.
        reported: the share of renames and links that are reported as failed when they were done.
        seed: of which ones.
    """

    def __init__(self, path: Path, links: bool, excludes: bool, lags: bool, reported: float, seed: int) -> None:
        self.path, self.links, self.excludes, self.lags, self.reported = str(path), links, excludes, lags, reported
        self.chance, self.now, self.idle = random.Random(seed), time.time(), threading.Semaphore(0)
        self.hosts: list[Host] = []
        self.made: dict[str, tuple[str, float]] = {}  # by whom, and when
        self.patch = pytest.MonkeyPatch()
        self.real = {name: getattr(os, name) for name in (*SWITCHING, "open", "mkdir", "stat", "listdir", "scandir")}
        self._install()

    def step(self, host: Host) -> None:
        """Let a host do what it does up to its next call."""
        host.turn.release()
        self.idle.acquire()

    def pass_time(self, seconds: float) -> None:
        """Move the clock on; hosts that are not frozen renew their leases meanwhile."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + exclusion.SHARING.silent / lease.BEATS)
            for host in self.hosts:
                if not (host.dead or host.frozen or host.done):
                    host.leases = [one for one in host.leases if one.renew()]

    def close(self) -> None:
        """End all threads, and put the system's calls back."""
        for host in self.hosts:
            host.dead = True
            if not host.done:
                self.step(host)
        self.patch.undo()

    def _install(self) -> None:
        self.patch.setattr(exclusion, "SHARING", exclusion.Sharing(True, 60.0))
        self.patch.setattr("lowrank_exp.job.outcomes.SHARING", exclusion.SHARING)
        self.patch.setattr(exclusion, "Heart", self._heart)
        if not self.excludes:
            self.patch.setattr(lease.Lease, "take", lambda one: True)
        for module in (owner, lease):
            self.patch.setattr(module, "host", lambda: threading.current_thread().name)
        self.patch.setattr(os, "getpid", lambda: 1)
        for name in ("sleep", "time", "monotonic"):
            self.patch.setattr(time, name, self._clock(name, getattr(time, name)))
        for name in SWITCHING:
            self.patch.setattr(os, name, self._call(name))
        self.patch.setattr(os, "open", self._open)
        self.patch.setattr(os, "fsync", lambda handle: self.real["utime"](handle, (self.now, self.now)))  # when written
        self.patch.setattr(os, "mkdir", self._mkdir)
        self.patch.setattr(os, "stat", self._seen(self.real["stat"]))
        self.patch.setattr(os, "listdir", self._listdir)
        self.patch.setattr(os, "scandir", self._scandir)
        for module in (io, builtins):
            self.patch.setattr(module, "open", self._open_file(io.open))

    def _here(self) -> Host | None:
        thread = threading.current_thread()
        return thread if isinstance(thread, Host) else None

    def _clock(self, name: str, real: Callable) -> Callable:
        def clock(*seconds: float) -> float | None:
            if (host := self._here()) is None:
                return real(*seconds)
            return host.sleep(*seconds) if name == "sleep" else self.now + host.ahead

        return clock

    def _call(self, name: str) -> Callable:
        def call(*paths: Any, **options: Any) -> None:
            host = self._here()
            if host is not None:
                host.pause()
            if name == "utime" and len(paths) == 1 and not options:
                return self.real["utime"](*paths, (self.now, self.now))
            if name == "link" and not self.links:
                raise OSError(errno.EPERM, "hard links are refused")
            self.real[name](*paths, **options)
            if host is not None and name in ("link", "rename", "replace"):
                self._note(paths[1], host)
                if self.chance.random() < self.reported:
                    raise OSError(self.chance.choice((errno.ESTALE, errno.ENOENT)), f"{name} was done")
            return None

        return call

    def _open(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        host = self._here()
        if host is not None and flags & os.O_CREAT:
            host.pause()
            handle = self.real["open"](path, flags, *rest, **options)
            self.real["utime"](path, (self.now, self.now))
            self._note(path, host)
            return handle
        return self._seen(self.real["open"])(path, flags, *rest, **options)

    def _open_file(self, real: Callable) -> Callable:
        def open_file(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if (host := self._here()) is not None:
                host.pause()
                if "w" in mode:
                    self._note(path, host)
            return (real if "w" in mode else self._seen(real))(path, mode, *rest, **options)

        return open_file

    def _mkdir(self, path: Any, *rest: Any, **options: Any) -> None:
        self.real["mkdir"](path, *rest, **options)
        if (host := self._here()) is not None:
            self._note(path, host)

    def _seen(self, real: Callable) -> Callable:
        def seen(path: Any, *rest: Any, **options: Any) -> Any:
            if self._is_hidden(path):
                raise FileNotFoundError(errno.ENOENT, "not seen yet", str(path))
            return real(path, *rest, **options)

        return seen

    def _listdir(self, path: Any = ".") -> list[str]:
        return [name for name in self.real["listdir"](path) if not self._is_hidden(os.path.join(path, name))]

    def _scandir(self, path: Any = ".") -> Any:
        entries = self.real["scandir"](path)
        if self._here() is None or isinstance(path, int):
            return entries
        with entries:
            return _Entries([entry for entry in entries if not self._is_hidden(entry.path)])

    def _note(self, path: Any, host: Host) -> None:
        if not isinstance(path, int):
            self.made[os.fspath(path)] = (host.name, self.now)

    def _is_hidden(self, path: Any) -> bool:
        """Whether another host has made it, or a folder that it lies in, a moment ago."""
        host = self._here()
        if not self.lags or host is None or isinstance(path, int):
            return False
        one = os.fspath(path)
        while len(one) > len(self.path):
            name, when = self.made.get(one, ("", 0.0))
            if name == host.name:
                return False
            if self.now - when < LAG:
                return True
            one = os.path.dirname(one)
        return False

    def _heart(self, one: lease.Lease) -> "_Heart":
        host = self._here()
        assert host is not None
        host.leases.append(one)
        return _Heart(host, one)


class _Heart:
    """What the clock of the folder does for a lease, until it is stopped."""

    def __init__(self, host: Host, one: lease.Lease) -> None:
        self.host, self.one = host, one

    def stop(self) -> None:
        self.host.leases = [other for other in self.host.leases if other is not self.one]


class _Entries(list):
    def __enter__(self) -> "_Entries":
        return self

    def __exit__(self, *_: object) -> None:
        pass
