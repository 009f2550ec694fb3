"""Whether other jobs ran beside a measurement."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def others_beside() -> Callable[[], float | None]:
    """Which share of the machine's processor time others took since this call, once the result is called; in [0, 1].

    Busy time of all cores, time that a hypervisor withheld included, less that of this process, over all time there
    was. The kernel counts in hundredths of a second: over 0.1 s on two cores the share is told in steps of 0.05, and
    what rounding makes negative is 0. None where the system does not tell (other than Linux).
    """
    before = _spent()

    def share() -> float | None:
        after = _spent()
        if before is None or after is None or after[1] <= before[1]:
            return None
        busy, all_time, own = (late - early for late, early in zip(after, before, strict=True))
        return min(1.0, max(0.0, (busy - own) / all_time))

    return share


def _spent(stat: Path = Path("/proc/stat")) -> tuple[float, float, float] | None:
    """Seconds that all cores were busy, that there were, and that this process computed, since some time."""
    try:
        ticks = [int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, waiting, *rest = ticks
    except (OSError, ValueError, AttributeError):
        return None
    busy = user + nice + system + sum(rest)
    return busy / second, (busy + idle + waiting) / second, time.process_time()
