"""A file that says who works on what, renewed as long as the work goes on.

For folders that several hosts share, where a lock of the system may not exclude. It saves work, and no result hangs on
it: a holder that was only slow finds its lease taken over, and what it makes late is not needed any more.
"""

import errno
import json
import os
import secrets
import threading
from pathlib import Path

from lowrank_exp.files.owner import host, is_gone
from lowrank_exp.files.place import GONE, place_first, take_away, time_in, touch

BEATS = 6  # times that a lease is renewed in the time after which it counts as given up


class Lease:
    """A lease on what `path` stands for.

    Times are those of the file system, which all hosts share; none is compared with a clock of a host.

    Args:
        path: the file, made exclusively.
        silent: seconds after which others take it over when it has not been renewed.
    """

    def __init__(self, path: Path, silent: float) -> None:
        self.path, self.silent = path, silent
        self.token = secrets.token_hex(8)

    def take(self) -> bool:
        """Take the lease, if nobody has it or it was given up; returns whether it is this one's now."""
        return self._make() or (not self.is_held() and self._make())

    def is_held(self) -> bool:
        """Whether another has it. One that was given up is cleared away."""
        found = _read(self.path)
        if found is None:
            return False
        owner, touched = found
        gone = is_gone(str(owner.get("host")), int(owner.get("process", 0)))
        if not gone and time_in(self.path.parent) - touched <= self.silent:
            return True
        aside = take_away(self.path)
        if aside is None:
            return True
        moved = _read(aside)
        if moved is not None and moved[0].get("token") != owner.get("token"):  # another has cleared it and taken anew
            place_first(aside, self.path)
        _remove(aside)
        return moved is not None and moved[0].get("token") != owner.get("token")

    def renew(self) -> bool:
        """Say that the work goes on; returns whether the lease is still this one's."""
        found = _read(self.path)
        if found is None or found[0].get("token") != self.token:
            return False
        try:
            touch(self.path)
        except OSError as error:
            if error.errno not in GONE:
                raise
        return True

    def release(self) -> None:
        """Give it back, if it is still this one's."""
        found = _read(self.path)
        if found is not None and found[0].get("token") == self.token:
            _remove(self.path)

    def _make(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ESTALE):
                raise
            return False
        try:
            owner = {"token": self.token, "host": host(), "process": os.getpid()}
            os.write(handle, json.dumps(owner).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        return self.renew()


class Heart:
    """Renews a lease from a thread of its own, until it is stopped or the lease is another's."""

    def __init__(self, lease: Lease) -> None:
        self._lease, self._stopped = lease, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when it has stopped."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease.silent / BEATS):
            try:
                if not self._lease.renew():
                    return
            except OSError:  # a server that does not answer: the next beat may reach it
                continue


def _read(path: Path) -> tuple[dict, float] | None:
    """Who made the file at a path, and when it was touched last; None: there is none. Nobody, of one half written."""
    try:
        handle = os.open(path, os.O_RDONLY)  # opened anew, for a host's own memory of the file may be old
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
    try:
        touched, content = os.fstat(handle).st_mtime, os.read(handle, 4096)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None
    finally:
        os.close(handle)
    try:
        owner = json.loads(content)
    except ValueError:
        owner = None
    return (owner if isinstance(owner, dict) else {}), touched


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in GONE:
            raise
