"""Who writes a file: names that no two processes share, on whatever host, and whether a process is gone."""

import functools
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

PART = re.compile(r"\..*\.([^.]+)\.(\d+)(?:-[0-9a-f]+)?\.part")  # .<name>.<host>.<process id>-<random>.part
NAMESPACES = ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid")  # Linux; elsewhere the host's name alone


@functools.cache
def host() -> str:
    """This host as files name it, with what tells apart containers and boots, in which process ids begin anew.

    >>> re.fullmatch(r"[\\w-]+", host()) is not None
    True
    """
    name = re.sub(r"[^\w-]", "_", socket.gethostname())[:40] or "_"
    return f"{name}-{hashlib.sha256(''.join(map(_content, NAMESPACES)).encode()).hexdigest()[:6]}"


def temporary(path: Path) -> Path:
    """A path beside `path` that nobody else makes, also where hosts share the folder and process ids."""
    return path.with_name(f".{path.name}.{host()}.{os.getpid()}-{secrets.token_hex(4)}.part")


def is_gone(other: str, pid: int) -> bool | None:
    """Whether a process of a host has ended; None: of another host, which cannot be asked."""
    if other != host():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _content(path: str) -> str:
    try:
        return os.readlink(path) if "/ns/" in path else Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
