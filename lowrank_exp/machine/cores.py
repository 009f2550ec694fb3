"""The machine a job runs on."""

import functools
import math
import os
import platform
from pathlib import Path


def count_cores() -> int:
    """Processor cores that this process may use: those it may run on, at most as many as its container has time for,
    and as SLURM has given its task."""
    allowed = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    quota, given = _quota(), _whole_in("SLURM_CPUS_PER_TASK")
    return max(1, min(allowed, *(math.ceil(limit) for limit in (allowed, quota, given) if limit is not None)))


def openmp_threads() -> int | None:
    """What `OMP_NUM_THREADS` asks for, its first level; None where it is not set, or is not a number."""
    return _whole_in("OMP_NUM_THREADS")


def _whole_in(variable: str) -> int | None:
    """The positive number that an environment variable begins with."""
    first = os.environ.get(variable, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _quota(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that Linux gives the process's control group and those around it; None: no limit is set."""
    try:
        groups = [line.split(":", 2)[1:] for line in of.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    shares = []
    for controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else next((p for p in (root / controllers, root / "cpu") if p.is_dir()), root)
        inner = base / path.lstrip("/")
        for folder in [inner, *inner.parents]:
            if folder.is_relative_to(base):
                shares += _share(folder)
    return min(shares, default=None)


def _share(group: Path) -> list[float]:
    """The limit that one control group sets, if it does: `cpu.max` in version 2, two files in version 1."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
            if float(quota) > 0 and float(period) > 0:  # `max` and -1: none
                return [float(quota) / float(period)]
        except (OSError, ValueError):
            continue
    return []


@functools.cache
def machine() -> str:
    """Name of the processor and its number of cores."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores"
