"""Freed memory is kept: what is allocated again needs no new pages."""

import platform
import subprocess
import sys

from lowrank_exp.files.results import Result
from support.smoke import SMOKE

GLIBC = platform.libc_ver()[0] == "glibc"
PROGRAM = """
import resource, sys
from lowrank_exp.machine.allocator import freed_memory_is_kept, keep_freed_memory
assert not freed_memory_is_kept()
if sys.argv[1] == "keep":
    assert keep_freed_memory() == freed_memory_is_kept()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(16 * 2**20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, freed_memory_is_kept())
"""


def test_pages_are_faulted_in_once():
    """128 MiB are 32,768 pages of 4 KiB; of huge pages, where the system gives them, 64."""
    faults, kept = {}, {}
    for how in ("keep", "leave"):
        ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        count, said = ran.stdout.split()
        faults[how], kept[how] = int(count), said
    assert kept == {"keep": str(GLIBC), "leave": "False"}
    assert 60 < faults["leave"] < 40_000
    assert 0 <= faults["keep"] < (30 if GLIBC else 40_000)


def test_the_result_says_so(command, tmp_path):
    assert command(*SMOKE) == 0
    (path,) = (tmp_path / "outputs").glob("runs/*/result.json")
    assert Result.read(path).environment["freed_memory_kept"] is GLIBC
