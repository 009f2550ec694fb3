"""Memory that was freed stays with the process, on Linux with glibc.

Every training step allocates its activations anew. By default glibc gives freed memory above 64 MiB back to the system,
and the next step maps and clears it again, page by page: 2 to 6 % of a training step of ResNet-18 on 32 x 32 images in
batches of 128, nothing of small networks. Kept is what a step needs at its largest; blocks above 32 MiB are given back
as before.
"""

import ctypes
import platform

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 2**31 - 1  # the largest number that mallopt takes
LARGE_BYTES = 32 * 2**20  # the largest threshold that glibc takes

_kept = False


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory, for this process and from now on; False where there is no glibc, and nothing done.

    Decides no numbers.
    """
    global _kept
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        _kept = bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
    return _kept


def freed_memory_is_kept() -> bool:
    """Whether `keep_freed_memory` was called here, and could."""
    return _kept
